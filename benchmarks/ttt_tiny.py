"""What test-time training adds to a tiny model that was trained here from nothing, on tasks of a kind it never saw.

The model learns tasks of one rule each (a symmetry, a shift, a recolouring) by `trm finetune`. What it is asked has two
rules, one after the other, in tasks of three demonstrations and grids of 3x3. `trm ttt nvarc` answers once without
training and once with it. Exact answers of the first attempt and of two, for each seed.

    python -m benchmarks.ttt_tiny --folder /tmp/ttt_tiny --seeds 1 2 3

Stop it at any time; the same command goes on.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
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
from trm_jax.tasks.dihedral import dihedral

SIDE, PAIRS = 3, 4
CFG = decoder.Config(16, 128, 4, 4, 4, 32, 256, rope_theta=1e4, qk_norm=True, tied=True)
Rule = Callable[[np.ndarray], np.ndarray]


def rules(rng: np.random.Generator) -> list[Rule]:
    """One of each kind: a symmetry that is not the identity, a shift that is not nothing, a permutation of colours."""
    symmetry, (down, right) = int(rng.integers(1, 8)), divmod(int(rng.integers(1, SIDE**2)), SIDE)
    new = rng.permutation(10).astype(np.uint8)
    return [lambda x: dihedral(x, symmetry), lambda x: np.roll(x, (down, right), (0, 1)), lambda x: new[x]]


def task(rng: np.random.Generator, count: int) -> dict:
    """A task of `count` different rules in a row. A grid has four colours, so that demonstrations tell most of them."""
    chosen = [rules(rng)[place] for place in rng.permutation(3)[:count]]
    colours, pairs = rng.permutation(10)[:4].astype(np.uint8), []
    for _ in range(PAIRS):
        grid = out = colours[rng.integers(4, size=(SIDE, SIDE))]
        for rule in chosen:
            out = rule(out)
        pairs.append({"input": grid.tolist(), "output": out.tolist()})
    return {"train": pairs[:-1], "test": pairs[-1:]}


def write_tasks(folder: Path, count: int, of_rules: int, seed: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        made = task(np.random.default_rng((seed, of_rules, number)), of_rules)
        (folder / f"rules{of_rules}-{number:05}.json").write_text(json.dumps(made))


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
    parser.add_argument("--steps", type=int, default=2000, help="of training from nothing (2000)")
    parser.add_argument("--asked", type=int, default=50, help="tasks (50)")
    args = parser.parse_args()
    learned, asked = args.folder / "one_rule", args.folder / "two_rules"
    write_tasks(learned, 4000, 1, 0)
    write_tasks(asked, args.asked, 2, 1)
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
