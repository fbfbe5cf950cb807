"""One run as a report sees it: what its files hold, and the figures that follow from them."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from trm_jax.configs.resolve import flatten
from trm_jax.configs.runs import RunFolder, read_run_file
from trm_jax.errors import InputError
from trm_jax.reports.statistics import Halting, detrended_variance, halting
from trm_jax.storage.paths import AnyPath
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

    def first_at(self, level: float) -> dict | None:
        """The first evaluation with an exact accuracy of at least `level`."""
        return next((record for record in self.evaluations if record["exact_accuracy"] >= level), None)

    @property
    def seconds(self) -> float | None:
        """Training and evaluations up to the evaluation of record, restarts not counted twice."""
        return seconds_at(self.final)

    @property
    def examples_per_s(self) -> float | None:
        """Median over the log lines but the first, which holds the compilation."""
        clocks = [record.get("clock", {}) for record in self.training[1:]]
        speeds = [clock["examples_per_s"] for clock in clocks if "examples_per_s" in clock]
        return statistics.median(speeds) if speeds else None

    @property
    def peak_memory_bytes(self) -> float | None:
        peaks = [record.get("clock", {}).get("peak_memory_bytes") for record in self.records]
        return max((peak for peak in peaks if peak), default=None)

    def late_mean(self, key: str) -> float | None:
        values = [record[key] for record in self.late if key in record]
        return statistics.fmean(values) if values else None

    @property
    def train_exact_accuracy(self) -> float | None:
        """Late in training, of the sequences that halted then; live weights, augmented training puzzles."""
        lines = [record for record in self.late if "exact_accuracy" in record]
        halted = sum(record["halted"] for record in lines)
        return sum(record["exact_accuracy"] * record["halted"] for record in lines) / halted if halted else None

    @property
    def gap(self) -> float | None:
        known = self.train_exact_accuracy
        return None if known is None else known - self.final["exact_accuracy"]

    @property
    def loss_variance(self) -> float | None:
        """Of the late log lines around their straight line."""
        return detrended_variance([record["loss"] for record in self.late])

    @property
    def max_grad_norm(self) -> float | None:
        return max((record["grad_norm"] for record in self.training if "grad_norm" in record), default=None)

    @property
    def skipped(self) -> float | None:
        """Updates left out because a gradient overflowed; None without loss scaling."""
        counts = [record["skipped"] for record in self.training if "skipped" in record]
        return float(sum(counts)) if counts else None

    @property
    def train_halt_counts(self) -> list[float]:
        """How many sequences halted at step 1, 2, ... late in training; empty where that was not recorded."""
        return added([record["halt_steps"] for record in self.late if "halt_steps" in record])

    @property
    def train_halting(self) -> Halting | None:
        return halting(self.train_halt_counts)

    @property
    def eval_flops_per_puzzle(self) -> float | None:
        """Of an evaluation in which nothing stops early."""
        flops = self.facts.get("eval_flops")
        return flops / self.final["count"] if flops else None

    @property
    def layer_applications(self) -> int:
        """In one supervision step; also what the paper calls the effective depth."""
        cycles = self.settings["model.H_cycles"] * (self.settings["model.L_cycles"] + 1)
        return cycles * self.settings["model.L_layers"]


def seconds_at(record: dict) -> float | None:
    return record.get("clock", {}).get("elapsed_s")


def eval_halting(record: dict) -> Halting | None:
    """When the rows of an evaluation would have stopped; those that never would count at the last step."""
    return halting(record.get("halt_steps", []))


def added(counts: list[list[float]]) -> list[float]:
    """Histograms added up, the shorter ones as if they ended in zeros."""
    length = max(map(len, counts), default=0)
    return [sum(row[i] for row in counts if i < len(row)) for i in range(length)]


def load_run(folder: RunFolder) -> Run:
    """Raises InputError when one of the run's files cannot be read."""
    records = tuple(read_jsonl(folder.path / METRICS_FILE))
    return Run(folder, read_run_file(folder.path), records, _read_goodput(folder.path))


def _read_goodput(workdir: AnyPath) -> dict:
    try:
        return read_goodput(workdir / GOODPUT_FILE)
    except NoCount as error:
        raise InputError(f"{error}; remove it, all but the run's time is known without it") from None
