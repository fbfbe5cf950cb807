"""What test-time training adds to a tiny model that was trained here from nothing, on rules that it never saw.

In a grid of 3x3 every corner becomes itself, the corner across, or the centre, and every edge likewise: nine rules that
all symmetries and permutations of colours leave as they are. The model learns five of them by `trm finetune`, and is
asked the other four, in tasks of three demonstrations: `trm ttt nvarc` answers once without training and once with it.

    python -m benchmarks.ttt_tiny --folder /tmp/ttt_tiny --seeds 1 2 3

Stop it at any time; the same command goes on.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import jax
import numpy as np

from trm_jax.cli.main import main as trm
from trm_jax.models import decoder
from trm_jax.reports.statistics import wilson
from trm_jax.solvers.nvarc import vocabulary
from trm_jax.tasks.arc import files
from trm_jax.tasks.arc.predictions import ranked
from trm_jax.tasks.arc.vote import score

PAIRS = 4
CFG = decoder.Config(16, 128, 4, 4, 4, 32, 256, rope_theta=1e4, qk_norm=True, tied=True)
KEPT, ACROSS, CENTRE = range(3)
LEARNED = [(KEPT, KEPT), (ACROSS, KEPT), (KEPT, CENTRE), (CENTRE, ACROSS), (ACROSS, CENTRE)]  # of corners, of edges
ASKED = [(ACROSS, ACROSS), (CENTRE, CENTRE), (KEPT, ACROSS), (CENTRE, KEPT)]


def changed(grid: np.ndarray, rule: tuple[int, int]) -> np.ndarray:
    """A grid [3, 3] under a rule."""
    places = np.arange(9)
    sources = np.stack([places, 8 - places, np.full(9, 4)])
    return grid.ravel()[sources[np.where(places % 2, rule[1], rule[0]), places]].reshape(3, 3)


def task(rng: np.random.Generator, rule: tuple[int, int]) -> dict:
    grids = rng.permutation(10)[:4][rng.integers(4, size=(PAIRS, 3, 3))]
    pairs = [{"input": grid.tolist(), "output": changed(grid, rule).tolist()} for grid in grids]
    return {"train": pairs[:-1], "test": pairs[-1:]}


def write_tasks(folder: Path, count: int, rules: list, seed: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        made = task(np.random.default_rng((seed, number)), rules[number % len(rules)])
        (folder / f"{folder.name}-{number:05}.json").write_text(json.dumps(made))


def run(*argv) -> None:
    if code := trm([str(one) for one in argv]):
        raise SystemExit(code)


def exact(answers: Path, tasks: Path) -> dict[int, float]:
    """k -> share of the tasks whose answer is among the first k."""
    found = ((key, [one.grid for one in some]) for key, some in ranked([answers]))
    return score(found, files.read_tasks(tasks)).mean_over_tasks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--steps", type=int, default=1000, help="of training from nothing (1000)")
    parser.add_argument("--asked", type=int, default=40, help="tasks (40)")
    args = parser.parse_args()
    learned, asked = args.folder / "learned", args.folder / "asked"
    write_tasks(learned, 4000, LEARNED, 0)
    write_tasks(asked, args.asked, ASKED, 1)
    rows = []
    for seed in args.seeds:
        start, base = args.folder / f"start-{seed}", args.folder / f"base-{seed}"
        if not (start / "config.json").exists():
            params = jax.jit(decoder.init, static_argnums=1)(jax.random.key(seed), CFG)
            vocabulary.write(start, CFG, params)
        if not (base / "config.json").exists():
            how = ["--lora-rank", 0, "--steps", args.steps, "--batch", 16, "--lr", 2e-3, "--last-lr", 1e-4]
            run("finetune", start, "--data", learned, "--output", base, "--seed", seed, *how)
        for permutations in (0, 8):
            workdir = args.folder / f"ttt-{seed}-{permutations}"
            how = ["--permutations", permutations, "--lora-rank", 16, "--lr", 1e-3, "--views", 1, "--no-adapters"]
            how += ["--tasks-at-once", 10, "--prompts-at-once", 8, "--seed", seed]
            run("ttt", "nvarc", base, "--data", asked, "--workdir", workdir, *how)
            rows.append((seed, 8 * permutations, exact(workdir / "predictions.jsonl", asked)))
    print("seed  updates a task  pass@1                pass@2")
    for seed, updates, found in rows:
        said = "  ".join("{:.3f} [{:.3f}, {:.3f}]".format(found[k], *wilson(found[k], args.asked)) for k in (1, 2))
        print(f"{seed:>4}  {updates:>14}  {said}")


if __name__ == "__main__":
    main()
