"""The runs that a report is on, by arm."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from trm_jax.configs.runs import Run
from trm_jax.reports.measures import Measure, Scores, scores
from trm_jax.reports.statistics import Spread, spread
from trm_jax.reports.units import plain, setting_name


@dataclass(frozen=True)
class Arm:
    """One experiment of a group with its runs, one a seed; none when it was not run."""

    name: str
    settings: Mapping[str, Any]
    runs: tuple[Run, ...] = ()
    varied: tuple[str, ...] = ()
    alias_of: str = ""
    expects: Mapping[str, float] = field(default_factory=dict)

    @property
    def label(self) -> str:
        return f"{self.name} = {self.alias_of}" if self.alias_of else self.name

    @property
    def named(self) -> str:
        """'exp01c (hidden_size 512, num_heads 8)': by the first two of the settings that are varied."""
        differs = ", ".join(f"{setting_name(key)} {plain(self.settings[key])}" for key in self.varied[:2])
        return f"{self.name} ({differs})" if differs else self.name

    def by_seed(self, measure: Measure) -> dict[int, float]:
        """The figure of each run that has it, by the run's seed."""
        found = {run.seed: measure.of(run) for run in self.runs}
        return {seed: value for seed, value in found.items() if value is not None}

    def values(self, measure: Measure) -> list[float]:
        return list(self.by_seed(measure).values())

    def spread(self, measure: Measure) -> Spread | None:
        return spread(self.values(measure))

    def mean(self, measure: Measure) -> float:
        """Over the runs that have the figure, of which there has to be one."""
        return self.spread(measure).mean


@dataclass(frozen=True)
class Study:
    """Arms in order, checked: scored on one set of examples, alike in all but what is varied.

    guide_problem: why the expectations of the users' guide are not of these runs, empty where they are. companion: the
    group that answers a question together with this one, when it was run (`companion_problem` says why not). levels:
    scores to reach. report: gives the sections of the page, the first one's sentence is the answer.
    """

    name: str
    question: str
    varied: tuple[str, ...]
    arms: tuple[Arm, ...]
    report: Callable[["Study"], list]
    notes: tuple[str, ...] = ()
    guide_problem: str = ""
    companion: "Study | None" = None
    companion_problem: str = "no group stands beside this one"
    levels: tuple[float, ...] = ()

    @property
    def ran(self) -> list[Arm]:
        return [arm for arm in self.arms if arm.runs]

    @property
    def runs(self) -> list[Run]:
        return [run for arm in self.arms for run in arm.runs]

    @property
    def reference(self) -> Arm:
        """The arm the others are held against: the group's centre (the alias), else the first that was run."""
        return next((arm for arm in self.ran if arm.alias_of), self.ran[0])

    @property
    def scores(self) -> Scores:
        return scores(self.runs[0].headline)

    @property
    def score(self) -> Measure:
        """The score of record, by which the task is judged."""
        return self.scores.final
