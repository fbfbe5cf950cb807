"""Settings that say themselves which values they take: fields of frozen dataclasses."""

from __future__ import annotations

from dataclasses import MISSING, field, fields
from typing import Any

from trm_jax.errors import InputError

SEEDS = range(2**32)  # jax.random.key takes 32 bits: greater ones would repeat those, in silence


def option(default: Any, *options: Any) -> Any:
    """A field that is one of `options`."""
    return field(default=default, metadata={"options": options})


def number(default: Any = MISSING, low: float = 0, high: float | None = None, below: float | None = None) -> Any:
    """A field of `low` or more, up to `high` or less than `below`; without a default it must be given."""
    return field(default=default, metadata={"low": low, "high": high, "below": below})


def positive(default: Any = MISSING) -> Any:
    """A field greater than 0."""
    return field(default=default, metadata={"positive": True})


def check(cfg: Any, section: str = "") -> None:
    """Raise InputError for the first field of a dataclass that is out of its bounds; section: what to call it by."""
    for one in fields(cfg):
        value, bounds = getattr(cfg, one.name), one.metadata
        wrong = ""
        if "options" in bounds and value not in bounds["options"]:
            wrong = f"{value!r}; choose one of {', '.join(map(str, bounds['options']))}"
        elif bounds.get("positive") and not value > 0:
            wrong = f"{value}; it must be positive"
        elif "low" in bounds:
            low, high, below = bounds["low"], bounds["high"], bounds["below"]
            if not (low <= value and (high is None or value <= high) and (below is None or value < below)):
                end = f"{high}]" if high is not None else f"{below})"
                least = "must not be negative" if low == 0 else f"must be at least {low}"
                wrong = f"{value}; it {least if high is None and below is None else f'must be in [{low}, {end}'}"
        if wrong:
            raise InputError(f"{section}{one.name} is {wrong}")


def check_seed(name: str, seed: int) -> None:
    """Raise InputError for a seed that is none; `name`: of the setting, for the message."""
    if seed not in SEEDS:
        raise InputError(f"{name} is {seed}; a seed is a whole number from 0 to {SEEDS[-1]}")
