"""The runs that a report is on, by arm."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from trm_jax.reports.measures import MEMORY, Measure
from trm_jax.reports.runs import Run
from trm_jax.reports.statistics import Spread, spread
from trm_jax.reports.units import setting_name, setting_value

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
        return ", ".join(f"{setting_name(key)} {setting_value(key, self.settings[key])}" for key in self.varied)

    @property
    def unfinished(self) -> bool:
        return not all(run.folder.done for run in self.runs)

    def values(self, measure: Measure) -> list[float]:
        """A figure of each run that has it.

        Runs that trained side by side in one program share its clock: of them it is one measurement, their mean.
        """
        found = [value for value in map(measure.of, self.runs) if value is not None]
        return [fmean(found)] if measure.clocked and largest_pack(self.runs) > 1 and found else found

    def by_seed(self, measure: Measure) -> dict[int, float]:
        """The figure of each run that has it, by the run's seed."""
        found = {run.folder.seed: measure.of(run) for run in self.runs}
        return {seed: value for seed, value in found.items() if value is not None}

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

    reference: the arm the others are held against. guide_problem: why the expectations of the users' guide are not of
    these runs, empty where they are. companion: the group that answers a question together with this one, when it was
    run (`companion_problem` says why not). levels: accuracies asked for instead of the guide's.
    """

    name: str
    question: str
    varied: tuple[str, ...]
    arms: tuple[Arm, ...]
    notes: tuple[str, ...] = ()
    guide_problem: str = ""
    companion: Study | None = None
    companion_problem: str = ""
    levels: tuple[float, ...] = ()

    @property
    def kind(self) -> str:
        """The group whose analyses apply: a small group is analysed as the one that it mirrors."""
        return self.name.removeprefix(MINI)

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

    def shared(self, measure: Measure) -> str:
        """Why a figure of the clock or of memory is not an arm's own, so that arms do not compare in it; or nothing."""
        pack = largest_pack(self.runs)
        if measure.clocked and pack > 1:
            return f"up to {pack} runs trained in one program, and its clock and memory are of all of them"
        if measure is MEMORY and any(run.facts.get("backend") == "cpu" for run in self.runs):
            return "on a CPU it is that of the whole process, compiler and data included"
        return ""


def largest_pack(runs: Iterable[Run]) -> int:
    """The most runs that trained in one program with one of these."""
    return max((run.facts.get("pack", 1) for run in runs), default=1)
