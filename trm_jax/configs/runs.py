"""The runs that lie in a folder, and how far each has come."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from ml_collections import ConfigDict

from trm_jax.configs.workdir import CONFIG_FILE, load_config
from trm_jax.errors import InputError
from trm_jax.storage.bucket import NoAccess
from trm_jax.storage.paths import AnyPath, folders_with
from trm_jax.train.writers import METRICS_FILE, RUN_FILE, read_jsonl


@dataclass(frozen=True)
class RunFolder:
    """A run's workdir. `name` is its experiment; `step` the last one logged; `total_steps` 0 before it first starts.

    `done`: the evaluation after the last step is written.
    """

    path: AnyPath
    name: str
    seed: int
    config: ConfigDict
    done: bool
    step: int
    total_steps: int


def read_run_file(workdir: AnyPath) -> dict:
    """What the trainer wrote when it started (total_steps, parameters, versions, ...); empty before that.

    Raises InputError for a file that cannot be read.
    """
    file = workdir / RUN_FILE
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        return {}
    try:
        content = json.loads(content)
    except ValueError as error:
        raise InputError(f"{file} is not JSON ({error}); remove it, the run writes it again") from None
    if not isinstance(content, dict) or type(content.get("total_steps", 0)) is not int:
        raise InputError(f"{file} does not describe a run; remove it, the run writes it again")
    return content


def open_run(workdir: AnyPath) -> RunFolder:
    """The run in `workdir`. Raises InputError when there is none or one of its files cannot be read."""
    config = load_config(workdir)
    total_steps = read_run_file(workdir).get("total_steps", 0)
    records = read_jsonl(workdir / METRICS_FILE)
    evaluated = {record["step"] for record in records if record["kind"] == "eval"}
    return RunFolder(
        path=workdir,
        name=config.name,
        seed=config.seed,
        config=config,
        done=total_steps in evaluated,
        step=max((record["step"] for record in records), default=0),
        total_steps=total_steps,
    )


def find_runs(root: AnyPath, on_problem: Callable[[InputError], None] | None = None) -> list[RunFolder]:
    """All runs in or under `root`, in the order of their paths; none when there is no such folder.

    A run that cannot be read is left out and handed to `on_problem`; without it, its InputError is raised.
    """

    def opened(workdir: AnyPath) -> RunFolder | InputError:
        try:
            return open_run(workdir)
        except InputError as error:
            return error

    with ThreadPoolExecutor(16) as pool:  # a bucket takes some time to answer, whatever it is asked
        found = list(pool.map(opened, folders_with(root, CONFIG_FILE)))
    for problem in found:
        if isinstance(problem, InputError):
            if on_problem is None or isinstance(problem, NoAccess):
                raise problem
            on_problem(problem)
    return [run for run in found if isinstance(run, RunFolder)]
