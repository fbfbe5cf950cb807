"""Reports on groups of runs: what was measured, with its spread, and what can be said from it."""
