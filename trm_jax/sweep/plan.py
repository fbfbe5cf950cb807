"""Which runs a sweep consists of, and in which order."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from trm_jax.configs import registry, resolve
from trm_jax.errors import InputError
from trm_jax.settings import check_seed
from trm_jax.sweep.run import REFUSED, Run

BASELINE = "baseline"
MOST_SEEDS = 1000  # more is a slip of the finger


def parse_seeds(text: str) -> tuple[int, ...]:
    """'0,1,2' -> (0, 1, 2); '0-2' means the same. Each once. Raises InputError."""
    seeds: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"(\d+)(?:-(\d+))?", part, re.ASCII)
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
        if first > last:
            raise InputError(f"--seeds {text!r}: write whole numbers or ranges, for example 0,1,2 or 0-2")
        if last - first + len(seeds) >= MOST_SEEDS:
            raise InputError(f"--seeds {text!r} are more than {MOST_SEEDS}; give fewer")
        check_seed("--seeds", last)
        seeds += range(first, last + 1)
    return tuple(dict.fromkeys(seeds))


def run_names(names: Sequence[str]) -> list[str]:
    """The experiments to run for `names`: an alias stands for its base, each once, `baseline` first."""
    known = list(registry.catalogue())
    wanted = {registry.run_name(name) for name in names}
    return sorted(wanted, key=lambda name: (name != BASELINE, known.index(name)))


def plan(
    names: Sequence[str],
    root: Path,
    *,
    seeds: Sequence[int] = (),
    changes: Mapping[str, str] | None = None,
    local: bool = False,
) -> list[Run]:
    """The runs of the experiments `names` in order: every experiment once, then all with the next seed.

    Without `seeds` each runs with its config's own. Raises InputError when no run can be built, or for `changes` that
    no config has.
    """
    changes = dict(changes or {})
    if seeds and "seed" in changes:
        raise InputError("--seeds and --set seed=... contradict each other; give one of them")
    runs = [_run(name, root, seed, changes, local) for seed in (seeds or (None,)) for name in run_names(names)]
    if all(run.state == REFUSED for run in runs):
        raise InputError(runs[0].error)
    return runs


def _run(name: str, root: Path, seed: int | None, changes: dict[str, str], local: bool) -> Run:
    if seed is not None:
        changes = {**changes, "seed": str(seed)}
    folder = root / (name + "_local" * local + (f"-seed{seed}" if seed is not None else ""))
    arguments = ["train", name, *["--local"] * local]
    if changes:
        arguments += ["--set", *(f"{key}={value}" for key, value in changes.items())]
    arguments += ["--workdir", str(folder)]
    try:
        config = registry.get(name)
        config = resolve.override(resolve.local(config) if local else config, changes)
        resolve.freeze(config)
    except InputError as error:
        return Run(name, seed, folder, None, tuple(arguments), REFUSED, str(error))
    return Run(name, config.seed, folder, config, tuple(arguments))


def aliases(names: Sequence[str]) -> dict[str, list[str]]:
    """Those `names` that are not run under their own, by the experiment that is run for them."""
    found: dict[str, list[str]] = {}
    for name in names:
        if registry.run_name(name) != name:
            found.setdefault(registry.run_name(name), []).append(name)
    return found
