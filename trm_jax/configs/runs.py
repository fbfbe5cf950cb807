"""The runs that lie in a folder: what their files hold, and how far each has come."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ml_collections import ConfigDict

from trm_jax.configs import registry
from trm_jax.configs.resolve import FREE_TO_CHANGE, diff, flatten
from trm_jax.configs.workdir import CONFIG_FILE, load_config
from trm_jax.errors import InputError
from trm_jax.storage.bucket import NoAccess
from trm_jax.storage.paths import AnyPath, folders_with
from trm_jax.train.clock import GOODPUT_FILE, read_goodput
from trm_jax.train.writers import DIAGNOSTICS, METRICS_FILE, RUN_FILE, read_jsonl

PARTS = ("held_out", "by_step", "settling", "stopping", "calibration", "strata")  # of diagnostics
# These do not tell experiments apart: a seed is a repetition, other averages are only evaluated besides.
OPEN = ("seed", "optim.ema_also", *FREE_TO_CHANGE)


@dataclass(frozen=True)
class Run:
    """A run's workdir: its config, what the trainer wrote when it started ({} before that), its metrics by line."""

    path: AnyPath
    config: ConfigDict
    facts: dict[str, Any]
    records: list[dict]

    @property
    def name(self) -> str:
        """Its experiment."""
        return self.config.name

    @property
    def seed(self) -> int:
        return self.config.seed

    @property
    def total_steps(self) -> int:
        """0 before it first starts."""
        return self.facts.get("total_steps", 0)

    @property
    def step(self) -> int:
        """The last one logged."""
        return max((record["step"] for record in self.records), default=0)

    @property
    def done(self) -> bool:
        """Whether the evaluation after the last step is written."""
        return any(record["step"] == self.total_steps for record in self.evaluations)

    @property
    def headline(self) -> str:
        """The score by which the run's task is judged: its key in the records."""
        return self.facts.get("headline", "exact_accuracy")  # older runs name none

    @cached_property
    def settings(self) -> dict[str, Any]:
        return flatten(self.config)

    @property
    def deciding(self) -> dict[str, Any]:
        """The settings that decide what the run computes, its seed left out."""
        return {key: value for key, value in self.settings.items() if not key.startswith(OPEN)}

    @cached_property
    def changed(self) -> dict[str, tuple[Any, Any]]:
        """Deciding settings in which it differs from its experiment: {key: (the experiment's, the run's)}."""
        changes = diff(self.config, registry.get(self.name)) if self.name in registry.catalogue() else {}
        return {key: values for key, values in changes.items() if not key.startswith(OPEN)}

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
    def scored_on(self) -> str:
        """The examples of the evaluation of record, and by what they were scored."""
        return f"eval_set {self.final.get('eval_set', 'unknown')[:12]} of {self.final['count']:,} by {self.headline}"

    @cached_property
    def goodput(self) -> dict:
        """How its time was spent, {} where nobody counted. Raises InputError for a damaged file."""
        return read_goodput(self.path / GOODPUT_FILE)

    @cached_property
    def diagnostics(self) -> dict:
        """What `trm eval --diagnose` wrote last, {} where nobody asked. Raises InputError for a damaged file."""
        file = self.path / DIAGNOSTICS
        try:
            content = json.loads(file.read_bytes())
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise InputError(f"{file} is not JSON ({error}); trm eval --diagnose writes it again") from None
        if isinstance(content, dict) and all(isinstance(content.get(part), dict) for part in PARTS):
            return content
        raise InputError(f"{file} holds no diagnostics; trm eval --diagnose writes it again")


def read_run_file(workdir: AnyPath) -> dict:
    """What the trainer wrote when it started (total_steps, parameters, versions, ...); empty before that.

    Raises InputError for a file that cannot be read.
    """
    file = workdir / RUN_FILE
    try:
        content = json.loads(file.read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise InputError(f"{file} is not JSON ({error}); remove it, the run writes it again") from None
    if not isinstance(content, dict) or type(content.get("total_steps", 0)) is not int:
        raise InputError(f"{file} does not describe a run; remove it, the run writes it again")
    return content


def open_run(workdir: AnyPath) -> Run:
    """The run in `workdir`. Raises InputError when there is none or one of its files cannot be read."""
    return Run(workdir, load_config(workdir), read_run_file(workdir), read_jsonl(workdir / METRICS_FILE))


def find_runs(root: AnyPath, on_problem: Callable[[InputError], None]) -> list[Run]:
    """All runs in or under `root`, in the order of their paths; none when there is no such folder.

    A run that cannot be read is left out and handed to `on_problem`.
    """

    def opened(workdir: AnyPath) -> Run | InputError:
        try:
            return open_run(workdir)
        except NoAccess:
            raise
        except InputError as error:
            return error

    with ThreadPoolExecutor(16) as pool:  # a bucket takes some time to answer, whatever it is asked
        found = list(pool.map(opened, folders_with(root, CONFIG_FILE)))
    for problem in (one for one in found if isinstance(one, InputError)):
        on_problem(problem)
    return [run for run in found if isinstance(run, Run)]
