"""The runs that a report is on, by arm."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from trm_jax.reports.measures import Measure
from trm_jax.reports.runs import Run
from trm_jax.reports.statistics import Spread, spread
from trm_jax.reports.units import plain

MINI = "mini_"


@dataclass(frozen=True)
class Arm:
    """One experiment of a group with its runs, one a seed; none when it was not run."""

    name: str
    settings: Mapping[str, Any]
    runs: tuple[Run, ...] = ()
    alias_of: str = ""
    expects: Mapping[str, float] = field(default_factory=dict)
    varied: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        return f"{self.name} = {self.alias_of}" if self.alias_of else self.name

    @property
    def differs(self) -> str:
        """'hidden_size 512, num_heads 8'."""
        return ", ".join(f"{key.rsplit('.', 1)[-1]} {plain(self.settings[key])}" for key in self.varied)

    @property
    def unfinished(self) -> bool:
        return not all(run.folder.done for run in self.runs)

    def values(self, measure: Measure) -> list[float]:
        """A figure of each run that has it.

        Runs that trained side by side in one program share its clock: of them it is one measurement, their mean.
        """
        found = [value for value in map(measure.of, self.runs) if value is not None]
        packed = any(run.facts.get("pack", 1) > 1 for run in self.runs)
        return [fmean(found)] if measure.clocked and packed and found else found

    def spread(self, measure: Measure) -> Spread | None:
        return spread(self.values(measure))

    def having(self, measure: Measure) -> int:
        """How many of the runs have the figure."""
        return sum(measure.of(run) is not None for run in self.runs)

    def complete(self, measure: Measure) -> bool:
        return self.having(measure) == len(self.runs)


@dataclass(frozen=True)
class Study:
    """Arms in order, checked: scored on one set of puzzles, alike in all but what is varied.

    reference: the arm the others are held against. companion: the group that answers a question together with this
    one, when it was run (`companion_problem` says why not). levels: accuracies asked for instead of the guide's.
    """

    name: str
    question: str
    data: str
    varied: tuple[str, ...]
    arms: tuple[Arm, ...]
    notes: tuple[str, ...] = ()
    companion: Study | None = None
    companion_problem: str = ""
    levels: tuple[float, ...] = ()

    @property
    def kind(self) -> str:
        """The group whose analyses apply: a small group is analysed as the one that it mirrors."""
        return self.name.removeprefix(MINI)

    @property
    def full_size(self) -> bool:
        """Whether the guide's expectations are of these very experiments."""
        return not self.name.startswith(MINI)

    @property
    def ran(self) -> list[Arm]:
        return [arm for arm in self.arms if arm.runs]

    @property
    def runs(self) -> list[Run]:
        return [run for arm in self.arms for run in arm.runs]

    @property
    def reference(self) -> Arm:
        """The group's centre (the alias) when it was run, else the first arm that was."""
        return next((arm for arm in self.ran if arm.alias_of), self.ran[0])
