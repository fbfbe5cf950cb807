"""NVARC: 16 tokens, training on a task's own demonstrations, threshold search, scores under other views.

Source: 1ytic/NVARC, winner of the ARC Prize 2025. Written from its description; no line is copied.
"""
