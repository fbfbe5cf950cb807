"""How fast ARC's training data are, and what they take of memory.

python -m benchmarks.arc_speed FOLDER    # with training, evaluation and concept in it
"""

import argparse
import platform
import resource
import statistics
import time

import numpy as np

from trm_jax.tasks.arc import TASK, ArcConfig


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--batch-size", type=int, default=768)
    args = parser.parse_args()
    slots, how = np.arange(args.batch_size), {"seed": 0, "batch_size": args.batch_size, "epochs_per_interval": 10_000}
    began = time.perf_counter()
    train, test = TASK.load(ArcConfig(path=args.folder))
    loaded = time.perf_counter()
    train.batch(0, slots, **how)
    first, rates = time.perf_counter() - loaded, []
    for step in range(1, 501):
        before = time.perf_counter()
        train.batch(step, slots, **how)
        rates.append(args.batch_size / (time.perf_counter() - before))
    low, median, high = statistics.quantiles(rates, n=4)
    print(f"{platform.machine()}, one thread, batches of {args.batch_size}")
    print(f"{train.info.groups} tasks, {train.info.num_puzzle_ids - 1:,} puzzles, {len(test):,} test examples")
    print(f"read and augmented in {loaded - began:.1f} s, the first batch {first:.1f} s later")
    print(f"{median:,.0f} examples a second (quartiles {low:,.0f} and {high:,.0f}, n = {len(rates)} batches)")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3:.0f} MB")


if __name__ == "__main__":
    main()
