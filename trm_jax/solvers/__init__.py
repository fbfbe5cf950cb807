"""Solvers: from ARC tasks to predictions."""
