"""What a setting names: a thing of this package by its short name, or anyone's by "module:ATTRIBUTE"."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from trm_jax.errors import InputError


def load(name: str, known: Mapping[str, str], setting: str) -> Any:
    """The object that `name` stands for; imported when it is asked for.

    known: short name -> "module:ATTRIBUTE". setting: where the name was given, for the InputError of one that is wrong.
    """
    module, colon, attribute = known.get(name, name).partition(":")
    if not colon:
        raise InputError(f"{setting} is {name!r}; choose one of {', '.join(known)}, or give MODULE:ATTRIBUTE")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise InputError(f"{setting} is {name!r}, which cannot be imported ({error})") from None
