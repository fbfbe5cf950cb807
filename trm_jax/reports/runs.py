"""One run as a report sees it: what its files hold, by step."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from trm_jax.configs import registry
from trm_jax.configs.resolve import flatten
from trm_jax.configs.runs import RunFolder, read_run_file
from trm_jax.errors import InputError
from trm_jax.reports.statistics import Halting, halting
from trm_jax.train.clock import GOODPUT_FILE, NoCount, read_goodput
from trm_jax.train.writers import METRICS_FILE, read_jsonl

# "Late" in a run is its last fifth.
LATE = 0.8


@dataclass(frozen=True)
class Run:
    """A run's folder, its run.json, the records of its metrics file, and goodput.json, {} where there is none."""

    folder: RunFolder
    facts: dict
    records: tuple[dict, ...]
    goodput: dict = field(default_factory=dict)

    @property
    def place(self) -> str:
        return str(self.folder.path)

    @property
    def headline(self) -> str:
        """The score by which the run's task is judged: its key in the records."""
        return self.facts.get("headline", "exact_accuracy")  # older runs name none

    @cached_property
    def settings(self) -> dict[str, Any]:
        return flatten(self.folder.config)

    @cached_property
    def evaluations(self) -> list[dict]:
        return self._by_step("eval")

    @cached_property
    def training(self) -> list[dict]:
        return self._by_step("train")

    def _by_step(self, kind: str) -> list[dict]:
        found = {record["step"]: record for record in self.records if record["kind"] == kind}
        return [found[step] for step in sorted(found)]

    @property
    def final(self) -> dict:
        """The evaluation of record: that after the last step (of an unfinished run, the last one there is)."""
        return self.evaluations[-1]

    @property
    def late(self) -> list[dict]:
        return [record for record in self.training if record["step"] > LATE * self.final["step"]]

    def epochs(self, step: int) -> float | None:
        """Epochs that `step` updates took: one draws each training puzzle once."""
        groups = self.facts.get("groups")
        return step * self.settings["train.batch_size"] / groups if groups else None

    @property
    def packed(self) -> bool:
        """Whether an older version trained it in one program with other runs: their clock and memory were one."""
        return self.facts.get("pack", 1) > 1

    @property
    def replaced_data(self) -> str:
        """What was trained on in place of the data of the run's experiment; empty where that was not replaced."""
        source = self.settings["data.source"]
        if self.folder.name not in registry.catalogue():
            return ""
        declared = registry.get(self.folder.name).data.source
        return f"{source} data in place of the experiment's ({declared})" if source != declared else ""


def seconds_at(record: dict) -> float | None:
    """Training and evaluations up to a record, restarts not counted twice."""
    return record.get("clock", {}).get("elapsed_s")


def eval_halting(record: dict) -> Halting | None:
    """When the rows of an evaluation would have stopped; those that never would count at the last step."""
    return halting(record.get("halt_steps", []))


def train_halt_counts(run: Run) -> list[float]:
    """How many sequences halted at step 1, 2, ... late in training; empty where that was not recorded."""
    return added([record["halt_steps"] for record in run.late if "halt_steps" in record])


def added(counts: list[list[float]]) -> list[float]:
    """Histograms added up, the shorter ones as if they ended in zeros."""
    length = max(map(len, counts), default=0)
    return [sum(row[i] for row in counts if i < len(row)) for i in range(length)]


def load_run(folder: RunFolder) -> Run:
    """Raises InputError when one of the run's files cannot be read."""
    facts, records = read_run_file(folder.path), tuple(read_jsonl(folder.path / METRICS_FILE))
    try:
        run = Run(folder, facts, records, read_goodput(folder.path / GOODPUT_FILE))
    except NoCount as error:
        raise InputError(f"{error}; remove it, all but the run's time is known without it") from None
    if run.packed:
        alone = tuple({key: value for key, value in record.items() if key != "clock"} for record in records)
        return Run(folder, facts, alone)
    return run
