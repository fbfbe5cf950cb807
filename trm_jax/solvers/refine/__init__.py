"""Programs that a model writes for ARC tasks, made better by what they get wrong.

`search` asks a coder (`coders`) round by round, runs what it writes in a sandbox (`sandbox`, of which `inside` is the
part that the other process runs) and scores it (`score`).
"""
