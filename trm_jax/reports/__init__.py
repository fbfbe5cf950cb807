"""Reports on runs. What the pages of groups are made of is found here by its name, and loaded when it is first used:
the files that declare experiments are read by every command and must not take long."""

import importlib

_PARTS = ("content", "units", "statistics", "measures", "fits", "words", "parts", "sections")


def __getattr__(name: str):
    modules = () if name.startswith("_") else _PARTS
    for module in (importlib.import_module(f"{__name__}.{part}") for part in modules):
        if hasattr(module, name):
            return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
