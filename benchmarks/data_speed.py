"""Speed of the Sudoku data: augmentation, batches, generator, solver, canonical forms. One core unless said.

    python benchmarks/data_speed.py [--seconds 2] [--json FILE]

Prints a table; with --json also the figures as one JSON object. Compilation is not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from trm_jax.data.loader import batches
from trm_jax.tasks.sudoku.canonical import canonical_forms, invariants
from trm_jax.tasks.sudoku.generator import distinct_puzzles, generate
from trm_jax.tasks.sudoku.solver import solve
from trm_jax.tasks.sudoku.source import training
from trm_jax.tasks.sudoku.symmetry import variants
from trm_jax.tasks.sudoku.verify import verify

BATCH = 768


def rate(work: Callable[[int], int], seconds: float) -> tuple[float, int]:
    """Items a second of wall time: work(i) does a piece and returns its items. The first call only warms up."""
    work(0)
    start, items, number = time.perf_counter(), 0, 1
    while (elapsed := time.perf_counter() - start) < seconds:
        items += work(number)
        number += 1
    return items / elapsed, items


def measure(seconds: float) -> dict[str, dict[str, float]]:
    """All figures: name -> {per_second, items}."""
    (boards,) = distinct_puzzles((1000,), size=9, seed=0)
    train = training(boards, 1000, 0)
    groups = np.arange(BATCH) % len(boards)

    def augment(number: int) -> int:
        variants(boards.questions, boards.answers, groups, groups + number, 0, shift=1)
        return BATCH

    def verified(number: int, **bounds: int) -> int:
        questions, _, _ = generate(1, number, 9, **bounds)
        assert (solve(questions, 9)[1] == 1).all()
        return len(questions)

    part = boards.take(np.arange(100))

    def canonical(_: int) -> int:
        canonical_forms(part.questions, part.answers, 9)
        return len(part)

    def invariant(_: int) -> int:
        invariants(boards.questions, boards.answers, 9)
        return len(boards)

    def proof(_: int) -> int:
        verify(boards)
        return len(boards)

    slots = np.arange(BATCH)
    direct = lambda step: len(train.batch(step, slots, seed=0, batch_size=BATCH)["inputs"])  # noqa: E731
    stream = iter(batches(train, seed=0, batch_size=BATCH, slots=slots, start_step=0, stop_step=2**31 - 1))

    def streamed(_: int) -> int:
        next(stream)
        return 1

    jobs = {
        "augmented 9x9 examples": augment,
        f"examples in batches of {BATCH}, addressed": direct,
        f"batches of {BATCH} through grain (2 threads)": streamed,
        "generated and verified puzzles": verified,
        "generated and verified puzzles, rating >= 20": lambda number: verified(number, low=20),
        "solver: generated puzzles verified (all cores)": proof,
        "canonical forms": canonical,
        "invariants": invariant,
    }
    results = {}
    for name, work in jobs.items():
        speed, items = rate(work, seconds)
        results[name] = {"per_second": round(speed, 1), "items": items}
    return results


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2.0, help="time for each figure")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    args = parser.parse_args()
    results = measure(args.seconds)
    print(f"{os.cpu_count()} cores, {platform.processor() or platform.machine()}, Python {platform.python_version()}")
    for name, figures in results.items():
        print(f"{name:<48} {figures['per_second']:>12,.0f} a second   ({figures['items']:,} items)")
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
