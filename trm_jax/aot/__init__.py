"""Programs compiled ahead of time, for TPUs that are not here: what they take and what they send."""
