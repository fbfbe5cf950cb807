"""Training steps a second of several small runs side by side as one program, against the same runs one by one.

    python -m benchmarks.pack_speed                          8 runs of mini_baseline that differ in their seed
    python -m benchmarks.pack_speed --config demo --lanes 4

Both ways compute the same updates (tests/train/test_equivalences.py). Rounds are interleaved: the machine's other work
falls on both. Compilation, data and evaluations are not counted.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time

import jax

from trm_jax.configs import registry, resolve
from trm_jax.tasks.sudoku import source as sudoku
from trm_jax.train.programs import Programs


def updates_per_s(programs: Programs, state, batches: list, steps: int) -> tuple[float, object]:
    """(updates of all lanes a second over `steps` steps, the state behind them)."""
    began = time.perf_counter()
    for step in range(steps):
        state = programs.train_step(state, step, batches)
    jax.block_until_ready(state.step)
    return len(programs.cfgs) * steps / (time.perf_counter() - began), state


def measure(config, lanes: int, steps: int, rounds: int) -> dict:
    cfgs = [resolve.freeze(resolve.override(config, {"seed": seed})) for seed in range(lanes)]
    data = sudoku.load(cfgs[0].data)
    alone, packed = Programs(cfgs[:1], data), Programs(cfgs, data)
    size = cfgs[0].train.batch_size
    batches = [data[0].batch(0, alone.slots, seed=cfg.seed, batch_size=size) for cfg in cfgs]
    states = {"alone": alone.first_state(), "packed": packed.first_state()}
    found = {"alone": [], "packed": []}
    for number in range(rounds + 1):
        for name, programs in (("alone", alone), ("packed", packed)):
            # One by one: the same number of updates, all by one program, as a queue of runs would.
            count = steps * (lanes if name == "alone" else 1)
            rate, states[name] = updates_per_s(programs, states[name], batches[: len(programs.cfgs)], count)
            if number:  # the first round compiles
                found[name].append(rate)
    ratios = [p / a for p, a in zip(found["packed"], found["alone"], strict=True)]
    return {
        "lanes": lanes,
        "batch_size": size,
        "alone_updates_per_s": round(statistics.median(found["alone"]), 1),
        "packed_updates_per_s": round(statistics.median(found["packed"]), 1),
        "ratio_median": round(statistics.median(ratios), 2),
        "ratio_min": round(min(ratios), 2),
        "ratio_max": round(max(ratios), 2),
        "rounds": rounds,
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
        "python": platform.python_version(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="mini_baseline", help="an experiment of `trm list`")
    parser.add_argument("--set", nargs="*", default=[], metavar="SECTION.NAME=VALUE", help="change settings")
    parser.add_argument("--lanes", type=int, default=8, help="runs side by side")
    parser.add_argument("--steps", type=int, default=20, help="steps of a round")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    config = resolve.override(registry.get(args.config), resolve.parse_assignments(args.set))
    print(json.dumps(measure(config, args.lanes, args.steps, args.rounds), indent=2))


if __name__ == "__main__":
    main()
