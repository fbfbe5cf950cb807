"""How fast ARC's training data are, and what they take of memory; with --evaluate, how an evaluation streams.

python -m benchmarks.arc_speed FOLDER                  # with training, evaluation and concept in it
python -m benchmarks.arc_speed FOLDER --evaluate       # all test examples answered by a tiny model, voted on, written
python -m benchmarks.arc_speed FOLDER --pairs 80 300   # the ARC transformer's lists at these caps, and its rows
"""

import argparse
import platform
import resource
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from trm_jax.tasks.arc import TASK, ArcConfig

# One supervision step of a network that says little: what is measured is what happens to its answers.
TINY = {"model.hidden_size": 16, "model.num_heads": 1, "model.L_layers": 1, "model.H_cycles": 1, "model.L_cycles": 1}
TINY |= {"model.mlp_t": True, "model.pos_encodings": "none", "model.puzzle_emb_ndim": 16, "model.puzzle_emb_len": 1}
TINY |= {"model.halt_max_steps": 1, "model.dtype": "float32", "model.expansion": 0.05}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--batch-size", type=int, default=768)
    parser.add_argument("--evaluate", type=int, nargs="?", const=0, metavar="N", help="only the first N (0 = all)")
    parser.add_argument("--pairs", type=int, nargs="+", metavar="CAP", help="needs training2 and evaluation2 too")
    args = parser.parse_args()
    for cap in args.pairs or ():
        pairs(args.folder, cap)
    if args.pairs:
        return
    slots, how = np.arange(args.batch_size), {"seed": 0, "batch_size": args.batch_size, "epochs_per_interval": 10_000}
    began = time.perf_counter()
    train, test = TASK.load(ArcConfig(path=args.folder))
    loaded = time.perf_counter()
    print(f"{platform.machine()}, batches of {args.batch_size}")
    print(f"{train.info.groups} tasks, {train.info.num_puzzle_ids - 1:,} puzzles, {len(test):,} test examples")
    if args.evaluate is not None:
        evaluate(args, test)
        return
    train.batch(0, slots, **how)
    first, rates = time.perf_counter() - loaded, []
    for step in range(1, 501):
        before = time.perf_counter()
        train.batch(step, slots, **how)
        rates.append(args.batch_size / (time.perf_counter() - before))
    low, median, high = statistics.quantiles(rates, n=4)
    print(f"read and augmented in {loaded - began:.1f} s, the first batch {first:.1f} s later")
    print(
        f"{median:,.0f} examples a second (quartiles {low:,.0f} and {high:,.0f}, n = {len(rates)} batches, one thread)"
    )
    print(f"peak memory {peak_mb():,.0f} MB")


def pairs(folder: str, cap: int) -> None:
    """Read the sets, make the lists, and pack ten epochs."""
    from trm_jax.tasks.pairs import PairsConfig
    from trm_jax.tasks.pairs.source import load

    began = time.perf_counter()
    cfg = PairsConfig(path=folder, augmentations=cap)
    train, _ = load(cfg)
    took = time.perf_counter() - began
    room = cfg.epoch_steps * cfg.rows_per_step * cfg.row_tokens
    full = [train.packing(0, epoch).tokens / room for epoch in range(10)]
    print(f"cap {cap}: {np.diff(train.pairs.first).mean():.2f} augmentations a pair, read and made in {took:.1f} s")
    print(f"rows are {min(full):.2%} to {max(full):.2%} full over all steps of an epoch (n = 10 epochs)")


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def evaluate(args, test) -> None:
    """Answer all test examples with an untrained model, whose answers are as different as answers get."""
    import jax

    from trm_jax import sharding
    from trm_jax.configs import registry, resolve
    from trm_jax.evals.runner import Evaluator
    from trm_jax.models import params

    cfg = resolve.freeze(
        resolve.override(registry.get("arc1"), {**TINY, "data.path": args.folder, "eval.batch_size": args.batch_size})
    )
    model = params.init(cfg.family.specs(cfg.model), jax.random.key(0))
    # Else every form of a task has the same embedding.
    model["puzzle_emb"] = jax.random.normal(jax.random.key(1), model["puzzle_emb"].shape)
    evaluator = Evaluator(cfg, test, sharding.make_mesh())
    at = []

    def on_batch(done: int, total: int) -> bool:
        if done % max(1, total // 8) == 0:
            at.append((done * args.batch_size, time.perf_counter() - began, peak_mb()))
        return False

    began = time.perf_counter()
    scores = evaluator(model, on_batch, first=args.evaluate)
    took = time.perf_counter() - began
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "predictions.jsonl"
        evaluator.ballot.write(file, "tiny", "", {})
        size = file.stat().st_size / 1e6
        with file.open() as lines:
            candidates = sum('"grid"' in line for line in lines)
    for done, seconds, peak in at:
        print(f"{done:>9,} examples after {seconds:6.1f} s, peak memory {peak:,.0f} MB")
    print(f"{scores['count']:,} examples in {took:.1f} s, pass@2 {scores['pass@2']:.4f}")
    print(f"{candidates:,} different candidates, {size:,.0f} MB as predictions; peak memory {peak_mb():,.0f} MB")


if __name__ == "__main__":
    main()
