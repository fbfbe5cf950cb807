"""The edge of the configuration: checked overrides on a locked ConfigDict, then frozen dataclasses."""

from __future__ import annotations

import ast
import difflib
import json
import sys
from functools import partial
from typing import Any

from ml_collections import ConfigDict

from trm_jax import tasks
from trm_jax.configs.defaults import SHAPE, defaults
from trm_jax.errors import InputError
from trm_jax.models import family as families
from trm_jax.storage.paths import as_path
from trm_jax.train.config import SECTIONS, RunConfig

CHOICES = (("data", "task"), ("model", "family"))  # settings that decide what else their section holds


def flatten(config: ConfigDict | dict, prefix: str = "") -> dict[str, Any]:
    """{"model.hidden_size": 512, ...}; a ConfigDict's in the alphabet's order."""
    flat = {}
    for key, value in config.items():
        nested = isinstance(value, ConfigDict | dict)
        flat |= flatten(value, f"{prefix}{key}.") if nested else {prefix + key: value}
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
    wrong = InputError(f"{key}={value!r} is not a {type(old).__name__}; its default is {old!r}")
    if isinstance(value, str) and not isinstance(old, str):
        text = value.strip()
        try:
            value = {"true": True, "false": False}[text.lower()] if isinstance(old, bool) else ast.literal_eval(text)
        except (KeyError, ValueError, SyntaxError):
            raise wrong from None
    number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    if type(old) is type(value) and isinstance(old, bool | str):
        return value
    if number and isinstance(old, float):
        return float(value)
    if number and type(old) is int and float(value).is_integer():
        if abs(value) >= 2**63:
            raise InputError(f"{key}={value!r} is too large; whole numbers go up to {2**63 - 1}")
        return int(value)  # 1e3 is the whole number 1000
    raise wrong


def override(config: ConfigDict, changes: dict[str, Any]) -> ConfigDict:
    """A copy with dotted keys set. Raises InputError for an unknown key (with the nearest ones) or a wrong type.

    Another task or family brings a section of its own: its settings begin at their defaults.
    """
    config = config.copy_and_resolve_references()
    task, family = (str(changes.get(f"{section}.{name}", config[section][name])) for section, name in CHOICES)
    if (task, family) != tuple(config[section][name] for section, name in CHOICES):
        fresh = defaults(task, family)
        with config.unlocked():
            for section, name in CHOICES:
                if config[section][name] != fresh[section][name]:
                    config[section] = fresh[section]
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
FREE_TO_CHANGE = ("name", "checkpoint.", "log.", "mesh.", "eval.batch_size", "model.remat", "model.unroll")
FREE_TO_CHANGE += ("train.accumulation", "train.deterministic", "model.attention_impl", "model.mlp_t_impl")


def changed_since(config: ConfigDict, saved: dict) -> dict[str, tuple[Any, Any]]:
    """Differences from a saved config (nested dict) that make this another run.

    A setting that did not exist yet when it was saved has its default there; one that exists no more is a difference.
    """
    saved = {"data.task": "sudoku", "model.family": "trm", **flatten(saved)}
    task, family = (saved[".".join(choice)] for choice in CHOICES)
    saved = flatten(defaults(task, family)) | saved
    gone = {k: (saved[k], None) for k in saved.keys() - flatten(config).keys()}
    return {k: v for k, v in (diff(config, saved) | gone).items() if not k.startswith(FREE_TO_CHANGE)}


def freeze(config: ConfigDict) -> RunConfig:
    """ConfigDict -> RunConfig. Raises InputError for values that cannot be built."""
    task, family = tasks.get(config.data.task), families.get(config.model.family)
    data = task.Config(**_without(config.data, "task"))
    info = task.info(data)
    shape = {name: getattr(info, name) for name in SHAPE}
    try:
        model = family.Config(**shape, **_without(config.model, "family"))
    except ValueError as error:
        raise InputError(f"model.{error}") from None
    sections = {name: section(**config[name].to_dict()) for name, section in SECTIONS.items()}
    page, start = config.to_dict(), partial(_of_run, config.train.start_from)
    return RunConfig(config.name, config.seed, task, data, family, model, page=page, start=start, **sections)


def _of_run(folder: str) -> RunConfig:
    from trm_jax.configs.workdir import load_config  # which builds on this module

    return freeze(load_config(as_path(folder).expanduser()))


def _without(section: ConfigDict, name: str) -> dict[str, Any]:
    return {key: value for key, value in section.items() if key != name}


def to_json(config: ConfigDict) -> str:
    return json.dumps(config.to_dict(), indent=2)


# A debug run of any config: everything that costs time is small, everything else stays what it was.
LOCAL = {"optim.warmup_steps": 5, "train.batch_size": 32, "train.steps": 30}
LOCAL |= {"eval.every_steps": 15, "eval.batch_size": 64, "eval.max_examples": 64}
LOCAL |= {"checkpoint.every_steps": 10, "log.every_steps": 5}


def local(config: ConfigDict) -> ConfigDict:
    """Shrink a config to a run of seconds, whose puzzles come from no network."""
    cfg = freeze(config)
    sections = {"data": cfg.task.local(cfg.data), "model": cfg.family.LOCAL}
    small = {f"{section}.{name}": value for section, changes in sections.items() for name, value in changes.items()}
    return override(config, {**LOCAL, **small})
