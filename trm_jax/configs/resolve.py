"""The edge of the configuration: checked overrides on a locked ConfigDict, then frozen dataclasses."""

from __future__ import annotations

import ast
import difflib
import json
import sys
from dataclasses import fields
from typing import Any

from ml_collections import ConfigDict

from trm_jax.configs.defaults import defaults
from trm_jax.errors import InputError
from trm_jax.models import TRMConfig
from trm_jax.tasks.sudoku.boards import check_size
from trm_jax.tasks.sudoku.source import SudokuConfig
from trm_jax.train import config as run_config


def flatten(config: ConfigDict | dict, prefix: str = "") -> dict[str, Any]:
    """{"model.hidden_size": 512, ...}; a ConfigDict's in the alphabet's order."""
    flat = {}
    for key, value in config.items():
        if isinstance(value, ConfigDict | dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def nearest(word: str, options) -> str:
    """' Did you mean a, b?' or nothing: the end of an error line about an unknown name."""
    options = list(options)
    close = difflib.get_close_matches(word, options, n=3, cutoff=0.5)
    leaf = word.rsplit(".", 1)[-1]
    close += [o for o in options if o.rsplit(".", 1)[-1] == leaf and o not in close]
    return f" Did you mean {', '.join(close[:4])}?" if close else ""


def _convert(key: str, value: Any, old: Any) -> Any:
    """`value` (a string from the command line or a Python value) in the type of the setting it replaces."""
    want = type(old).__name__
    if isinstance(value, str) and not isinstance(old, str):
        text = value.strip()
        try:
            value = {"true": True, "false": False}[text.lower()] if isinstance(old, bool) else ast.literal_eval(text)
        except (KeyError, ValueError, SyntaxError):
            raise InputError(f"{key}={text!r} is not a {want}; its default is {old!r}") from None
    number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    if isinstance(old, bool) and isinstance(value, bool) or isinstance(old, str) and isinstance(value, str):
        return value
    if number and isinstance(old, float) and not isinstance(old, bool):
        return float(value)
    if number and isinstance(old, int) and not isinstance(old, bool) and float(value).is_integer():
        if abs(value) >= 2**63:
            raise InputError(f"{key}={value!r} is too large; whole numbers go up to {2**63 - 1}")
        return int(value)  # 1e3 is the whole number 1000
    raise InputError(f"{key}={value!r} is not a {want}; its default is {old!r}")


def override(config: ConfigDict, changes: dict[str, Any]) -> ConfigDict:
    """A copy with dotted keys set. Raises InputError for an unknown key (with the nearest ones) or a wrong type."""
    config = config.copy_and_resolve_references()
    known = flatten(config)
    for key, value in changes.items():
        if key not in known:
            raise InputError(f"unknown setting {key!r}.{nearest(key, known)} `trm show NAME` lists them all")
        *sections, leaf = key.split(".")
        target = config
        for section in sections:
            target = target[section]
        target[leaf] = _convert(key, value, known[key])
    return config.lock()


def parse_assignments(assignments: list[str]) -> dict[str, str]:
    """['train.steps=10'] -> {'train.steps': '10'}."""
    changes = {}
    for text in assignments:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise InputError(f"--set {text!r}: write it as section.name=value, for example --set train.steps=1000")
        if key.strip() == "name":
            raise InputError("--set name: an experiment keeps its name; call its run what you like with --workdir")
        changes[key.strip()] = value
    return changes


def diff(config: ConfigDict, base: ConfigDict | dict) -> dict[str, tuple[Any, Any]]:
    """Settings that differ: {key: (base's value, this one's)}; the name is not a setting."""
    ours, theirs = flatten(config), flatten(base)
    return {k: (theirs.get(k), v) for k, v in ours.items() if k != "name" and theirs.get(k) != v}


# Settings that may change when a run goes on: they decide how it is run and watched, not what it computes.
FREE_TO_CHANGE = ("name", "checkpoint.", "log.", "mesh.", "eval.batch_size", "train.accumulation", "model.remat")


def changed_since(config: ConfigDict, saved: dict) -> dict[str, tuple[Any, Any]]:
    """Differences from a saved config (nested dict) that make this another run.

    A setting that did not exist yet when it was saved has its default there; one that exists no more is a difference.
    """
    saved = flatten(defaults()) | flatten(saved)
    gone = {k: (saved[k], None) for k in saved.keys() - flatten(config).keys()}
    return {k: v for k, v in (diff(config, saved) | gone).items() if not k.startswith(FREE_TO_CHANGE)}


def freeze(config: ConfigDict) -> run_config.RunConfig:
    """ConfigDict -> RunConfig. Raises InputError for values that cannot be built."""
    sections = {f.name: f.type for f in fields(run_config.RunConfig)}
    data = SudokuConfig(**config.data.to_dict())
    check_size(data.size)
    try:
        model = TRMConfig(vocab_size=data.size + 2, seq_len=data.size**2, **config.model.to_dict())
    except ValueError as error:
        raise InputError(f"model.{error}") from None
    parts = {}
    for name in ("optim", "train", "eval", "checkpoint", "log", "mesh"):
        parts[name] = getattr(run_config, sections[name])(**config[name].to_dict())
    return run_config.RunConfig(name=config.name, seed=config.seed, model=model, data=data, **parts)


def to_json(config: ConfigDict) -> str:
    return json.dumps(config.to_dict(), indent=2)


# A debug run of any config: everything that costs time is small, everything else stays what it was.
LOCAL = {
    "model.hidden_size": 64,
    "model.num_heads": 4,
    "model.puzzle_emb_ndim": 64,
    "model.L_cycles": 2,
    "model.H_cycles": 2,
    "model.halt_max_steps": 4,
    "data.train_puzzles": 64,
    "data.test_puzzles": 64,
    "optim.warmup_steps": 5,
    "train.batch_size": 32,
    "train.steps": 30,
    "eval.every_steps": 15,
    "eval.batch_size": 64,
    "eval.max_examples": 64,
    "checkpoint.every_steps": 10,
    "log.every_steps": 5,
}


def local(config: ConfigDict) -> ConfigDict:
    """Shrink a config to a run of seconds; a hub data set becomes generated puzzles of the same size."""
    changes = dict(LOCAL)
    if config.data.source == "hub":
        changes["data.source"] = "generated"
    return override(config, changes)
