"""Runs that differ in numbers only, trained side by side by one process."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from trm_jax.sweep.plan import Run, Unit

PACKS, OUTCOME_FILE = "packs", "outcome.json"


def units(runs: Sequence[Run], most: int) -> list[Unit]:
    """The runs in order, those that can be trained together in units of at most `most`."""
    if most == 1:
        return [Unit([run]) for run in runs]
    from trm_jax.configs.pack import groups

    by_folder = {run.folder: run for run in runs}
    together = groups([(run.config, run.folder) for run in runs], most)
    return [Unit([by_folder[folder] for _, folder in group]) for group in together]


def arguments(unit: Unit, root: Path) -> tuple[str, ...]:
    """The command behind `trm` that trains the unit; that of several names a file, which `write` writes."""
    return unit.runs[0].arguments if len(unit.runs) == 1 else ("train-pack", str(_file(unit, root)))


def log(unit: Unit, root: Path) -> Path:
    """Where the output of a pack goes."""
    return _file(unit, root).with_suffix(".log")


def _file(unit: Unit, root: Path) -> Path:
    return root / PACKS / f"{unit.runs[0].label}+{len(unit.runs) - 1}.json"


def write(unit: Unit, root: Path) -> None:
    """Write the file that `arguments` names, and forget what an earlier pack has said of these runs."""
    for run in unit.runs:
        (run.folder / OUTCOME_FILE).unlink(missing_ok=True)
    file = _file(unit, root)
    file.parent.mkdir(exist_ok=True)
    replacement = file.with_suffix(".tmp")
    pack = [{"config": run.config.to_dict(), "workdir": str(run.folder)} for run in unit.runs]
    replacement.write_text(json.dumps(pack, indent=1))
    os.replace(replacement, file)


def outcome(run: Run) -> tuple[str, str] | None:
    """(state, error line) of a run as its pack has left it; None when the pack did not get that far."""
    try:
        said = json.loads((run.folder / OUTCOME_FILE).read_text())
        return said["state"], said.get("error", "")
    except (OSError, ValueError, KeyError):
        return None
