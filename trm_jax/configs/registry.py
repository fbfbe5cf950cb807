"""Named experiments: each is a set of differences from another one, declared in a file under `experiments/`.

A file holds EXPERIMENTS, a list of `Experiment`, or GROUPS, a list of `Group` with experiments of their own, or a
function `groups_like(groups)` that makes groups after the model of those in the files before it.
"""

from __future__ import annotations

import fnmatch
import functools
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ml_collections import ConfigDict

import trm_jax
from trm_jax.configs.defaults import defaults
from trm_jax.configs.resolve import flatten, nearest, override
from trm_jax.errors import InputError


@dataclass(frozen=True)
class Experiment:
    """`changes` are dotted settings laid over experiment `base` (empty: over the defaults).

    An experiment without changes is another name of its base (its alias): it is run once, under the base's name.
    `expects` holds what the users' guide expects, which nobody measured: {"exact_accuracy": 0.87, ...}.
    """

    name: str
    summary: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    base: str = ""
    expects: Mapping[str, float] = field(default_factory=dict)

    @property
    def alias_of(self) -> str:
        """The experiment that this one is another name of; empty for one of its own."""
        return self.base if not self.changes else ""


_BASELINE = "Sudoku-Extreme with 1,000 puzzles, mlp_t TRM of 5.0M parameters, batch 6144, 8,138 steps"
BASELINE = Experiment("baseline", _BASELINE)


@dataclass(frozen=True)
class Group:
    """Experiments that answer one question together: a sweep over the settings `varied`.

    report: gives the sections of the group's report from a `trm_jax.reports.study.Study`; without one, those of any
    runs. levels: scores to reach, of which the report tells when. companion: the group whose runs the report needs too.
    """

    name: str
    question: str
    varied: tuple[str, ...]  # dotted settings; the first one is what a table is ordered by
    experiments: tuple[Experiment, ...]
    report: Callable[[Any], list] | None = None
    levels: tuple[float, ...] = ()
    companion: str = ""

    @classmethod
    def over(
        cls,
        name: str,
        question: str,
        members: str,
        varied: Mapping[str, Sequence[Any]],
        *,
        expects: Mapping[str, Sequence[float]] = MappingProxyType({}),
        base: Experiment = BASELINE,
        **answered: Any,
    ) -> Group:
        """The group of `members` (names with spaces between), each laid over `base` with its own one of the values of
        each varied setting, and of what the guide expects; answered: its `report`, `levels` and `companion`. A member
        with the values of `base` becomes another name of it."""
        centre, experiments = {**flatten(defaults()), **base.changes}, []
        for member, *values in zip(members.split(), *varied.values(), *expects.values(), strict=True):
            settings = dict(zip(varied, values, strict=False))
            changes = {key: value for key, value in settings.items() if value != centre[key]}
            summary = ", ".join(f"{key.rsplit('.', 1)[-1]} {value}" for key, value in settings.items())
            expected = dict(zip(expects, values[len(varied) :], strict=True))
            experiments.append(Experiment(member, summary, changes, base.name, expected))
        return cls(name, question, tuple(varied), tuple(experiments), **answered)


def experiments_folder() -> Path:
    """Inside the package when installed from a wheel, beside it in a checkout."""
    package = Path(trm_jax.__file__).parent
    inside = package / "experiments"
    return inside if inside.is_dir() else package.parent / "experiments"


# The catalogue's order; the other files follow in the alphabet's.
_FIRST = ("baseline", "exp", "contrib", "mini")


def _files() -> list[Path]:
    files = sorted(file for file in experiments_folder().glob("*.py") if not file.stem.startswith("_"))
    return sorted(files, key=lambda file: [file.stem.startswith(first) for first in _FIRST], reverse=True)


@functools.cache
def _declared() -> tuple[dict[str, Experiment], dict[str, Group]]:
    """(experiments, groups) of all files, each by name in the order of the files."""
    experiments: dict[str, Experiment] = {}
    groups: dict[str, Group] = {}
    for file in _files():
        spec = importlib.util.spec_from_file_location(f"trm_jax_experiments.{file.stem}", file)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        declared = [*getattr(module, "GROUPS", [])]
        if hasattr(module, "groups_like"):
            declared += module.groups_like(groups)
        here = {group.name: group for group in declared}
        members = [*getattr(module, "EXPERIMENTS", []), *(e for group in here.values() for e in group.experiments)]
        for experiment in members:
            if experiment.name in experiments:
                raise InputError(f"experiment {experiment.name!r} is declared twice, the second time in {file}")
            experiments[experiment.name] = experiment
        groups |= here
    return experiments, groups


def catalogue() -> dict[str, Experiment]:
    """All experiments by name, in the order of their files."""
    return _declared()[0]


def groups() -> dict[str, Group]:
    """All groups by name, in the order of their files."""
    return _declared()[1]


def select(words: list[str]) -> list[str]:
    """Names of the experiments that `words` ask for, in the catalogue's order, each once.

    A word is a name, a group, the beginning of a name or a shell pattern; the last two leave out the other ways to run
    a member of a group, unless there is nothing else. Raises InputError for one that matches nothing."""
    known, families = catalogue(), groups()
    others = {other for family in families.values() for e in family.experiments for other in alternatives(e.name)}
    wanted: set[str] = set()
    for word in words:
        if word in known:
            wanted.add(word)
        elif word in families:
            wanted |= {experiment.name for experiment in families[word].experiments}
        else:
            pattern = word if any(c in word for c in "*?[") else f"{word}*"
            matches = fnmatch.filter(known, pattern)
            if not matches or not word:
                near = nearest(word, [*families, *known])
                raise InputError(f"no experiment and no group matches {word!r}.{near} `trm list` shows them all")
            wanted |= set(matches) - others or set(matches)
    return [name for name in known if name in wanted]


def alternatives(name: str) -> list[str]:
    """Experiments outside the groups that are `name` with changes: other ways to run it."""
    grouped = {experiment.name for group in groups().values() for experiment in group.experiments}
    return [e.name for e in catalogue().values() if e.base == name and e.changes and e.name not in grouped]


def run_name(name: str) -> str:
    """The experiment whose run stands for `name`: itself, or what it is an alias of."""
    while catalogue()[name].alias_of:
        name = catalogue()[name].alias_of
    return name


def get(name: str) -> ConfigDict:
    """The locked config of an experiment. Raises InputError with the nearest names."""
    known = catalogue()
    if name not in known:
        raise InputError(f"unknown experiment {name!r}.{nearest(name, known)} `trm list` shows them all")
    experiment = known[name]
    base = get(experiment.base) if experiment.base else defaults()
    return override(base, {**experiment.changes, "name": name})
