"""The analyses: each is a function of a study that gives one section of its report."""
