"""MARC: an adapter for each task, trained on leave-one-out puzzles made of its demonstrations.

Source: Akyürek et al. 2024, "The Surprising Effectiveness of Test-Time Training for Few-Shot Learning".
"""
