"""Programs that a model writes for ARC tasks, made better by what they get wrong.

`search` says what a coder (`coders`) is asked; `solve` keeps its replies, runs their programs in a sandbox (`sandbox`,
of which `inside` is the part that the other process runs) and scores them (`score`).
"""
