"""The runs of a sweep, how far their folders say they are, and `sweep.json`, which says how they go at any moment."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ml_collections import ConfigDict

from trm_jax import tasks
from trm_jax.configs.resolve import changed_since
from trm_jax.configs.runs import open_run, read_run_file
from trm_jax.errors import InputError
from trm_jax.storage.paths import write_whole
from trm_jax.train.progress import duration
from trm_jax.train.writers import METRICS_FILE, read_jsonl

WAITING, RUNNING, DONE = "waiting", "running", "done"
STOPPED = "stopped"  # saved and not finished
FAILED = "failed"  # died, more often than it was to be tried again
DIVERGED = "diverged"
REFUSED = "refused"  # bad input or a full disk: trying again changes nothing
BAD_ENDS = (FAILED, DIVERGED, REFUSED)
STATES = (DONE, RUNNING, *BAD_ENDS, STOPPED, WAITING)  # in the order in which they are told
STATE_FILE = "sweep.json"
EARLIER = ("exit_codes", "started", "ended")  # what a run has from the sweeps before
KEPT = ("name", "seed", "command", "state", "error", "score", *EARLIER)


@dataclass
class Run:
    """Experiment `name` with its settings in the workdir `folder`, and how it goes.

    `arguments`: the command behind `trm` that trains it or goes on with it. `error`: one line, why it failed, or why
    its settings cannot be built: it is refused then and has no config. Times are UTC. The rest is read from its folder:
    `total_steps` 0: not known yet; `score`: its task's headline in the last evaluation, if any.
    """

    name: str
    seed: int | None
    folder: Path
    config: ConfigDict | None
    arguments: tuple[str, ...]
    state: str = WAITING
    error: str = ""
    exit_codes: list[int] = field(default_factory=list)  # of all sweeps
    started: str = ""
    ended: str = ""
    step: int = 0
    total_steps: int = 0
    score: float | None = None
    left_s: float | None = None

    @property
    def label(self) -> str:
        return self.folder.name

    @property
    def command(self) -> str:
        """The command line, to be pasted into a shell."""
        return shlex.join(["trm", *self.arguments])

    @property
    def score_words(self) -> str:
        """'exact accuracy 0.8740'; empty before the first evaluation."""
        return "" if self.score is None else f"{self._headline.replace('_', ' ')} {self.score:.4f}"

    @property
    def steps(self) -> str:
        """'50/100'; empty before it first starts."""
        return f"{self.step}/{self.total_steps}" if self.total_steps else ""

    @property
    def _headline(self) -> str:
        return tasks.get(self.config.data.task).headline

    def look(self) -> None:
        """Read how far it has come; nothing from a folder that cannot be read (its training says why)."""
        try:
            total = read_run_file(self.folder).get("total_steps", 0)
            records = read_jsonl(self.folder / METRICS_FILE)
        except (InputError, OSError):
            return
        step = max((record["step"] for record in records), default=0)
        elapsed_s = max((record.get("clock", {}).get("elapsed_s", 0) for record in records), default=0)
        evaluations = [record for record in records if record["kind"] == "eval"]
        self.step, self.total_steps = step, total
        self.score = evaluations[-1].get(self._headline) if evaluations else None
        self.left_s = elapsed_s / step * max(total - step, 0) if step and total else None

    def examine(self) -> None:
        """Find whether it is done, with the same settings, or was begun, before it is started."""
        if self.state == REFUSED:
            return
        self.look()
        try:
            there = open_run(self.folder)
            done = there.done and not changed_since(self.config, there.config.to_dict())
        except (InputError, OSError):
            done = False
        self.state = DONE if done else STOPPED if self.step else WAITING


class State:
    """`sweep.json` of the folder `root`: the runs of this sweep, before those that earlier sweeps have left."""

    def __init__(self, root: Path, runs: Sequence[Run]):
        self._file, self._runs, self._others = root / STATE_FILE, runs, read(root)
        for run in runs:
            before = self._others.pop(run.label, {})
            vars(run).update({key: before[key] for key in EARLIER if key in before})
        for entry in self._others.values():
            if entry["state"] == RUNNING:  # its sweep was killed: whoever holds the lock is the only one
                entry["state"] = STOPPED

    def write(self) -> None:
        """Replace the file in one step. Raises OSError when that is impossible (a full disk), and the old one stays."""
        entries = [{"folder": str(run.folder)} | {key: getattr(run, key) for key in KEPT} for run in self._runs]
        write_whole(self._file, json.dumps({"runs": [*entries, *self._others.values()]}, indent=1).encode())


def read(root: Path) -> dict[str, dict]:
    """The entries of `root` by the names of the runs' folders; none before its first sweep. Raises InputError."""
    file = root / STATE_FILE
    if not file.exists():
        return {}
    try:
        entries = json.loads(file.read_text())["runs"]
        return {Path(each["folder"]).name: {**each, "exit_codes": [*each["exit_codes"]]} for each in entries}
    except (ValueError, TypeError, KeyError) as error:
        mend = "remove it, the runs themselves know how far they are"
        raise InputError(f"{file} does not describe a sweep ({error}); {mend}") from None


def counts(runs: Sequence[Run]) -> str:
    """'3 of 10 done, 1 running, 6 waiting'."""
    found = Counter(run.state for run in runs)
    others = [f"{found[state]} {state}" for state in STATES[1:] if found[state]]
    return ", ".join([f"{found[DONE]} of {len(runs)} done", *others])


def news(runs: Sequence[Run]) -> str:
    """The counts, and how far each run is that is at work."""
    said = [counts(runs)]
    for run in runs:
        if run.state == RUNNING:
            run.look()
            left = "" if run.left_s is None else f"{duration(run.left_s)} left"
            said.append(", ".join(filter(None, [f"{run.label} step {run.steps}", run.score_words, left])))
    return "; ".join(said)
