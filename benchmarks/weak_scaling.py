"""What processes that train together spend on each other: weak scaling on one machine.

    python -m benchmarks.weak_scaling --processes 1 2 4 8

Every process holds the same share of the batch. They share the cores of this machine, so more of them are slower
whatever they do; told is therefore the share of a step that goes into waiting for each other and into collectives:
first each process trains a run of its own, all at the same time, then all of them train one run together, with a batch
of all their shares.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import time

SETTINGS = {
    **{"data.test_puzzles": 64, "eval.batch_size": 64, "data.train_puzzles": 20},
    **{"train.steps": 1000, "model.dtype": "float32"},
}


def work(experiment: str, share: int, steps: int, rounds: int) -> None:
    """One process: times both kinds of training and, at process 0, prints them as JSON."""
    import jax

    from trm_jax.configs import registry, resolve
    from trm_jax.distributed import rendezvous
    from trm_jax.train.compiled import Compiled

    def report(error: BaseException) -> int:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1

    def trained(compiled, cfg, data):
        """A function that makes `steps` steps and returns the seconds of one."""
        state, done = compiled.first_state(), 0
        size = cfg.train.batch_size

        def run() -> float:
            nonlocal state, done
            addressed = range(done, done + steps)
            batches = [data[0].batch(step, compiled.slots, seed=cfg.seed, batch_size=size) for step in addressed]
            group.gather("ready")
            began = time.perf_counter()
            for batch in batches:
                state, _ = compiled.train_step(state, done, batch)
                done += 1
            jax.block_until_ready(state.step)
            return (time.perf_counter() - began) / steps

        return run

    with rendezvous.join(rendezvous.find(), 120.0, report) as group:
        page = resolve.override(registry.get(experiment), SETTINGS)
        runs = {}
        for name, size, devices in (
            ("alone", share, jax.local_devices()),
            ("together", share * group.count, jax.devices()),
        ):
            cfg = resolve.freeze(resolve.override(page, {"train.batch_size": size}))
            data = cfg.task.load(cfg.data)
            runs[name] = trained(Compiled(cfg, data[0].info, devices), cfg, data)
        for run in runs.values():
            run()  # compiles
        times = {name: [] for name in runs}
        for _ in range(rounds):
            for name, run in runs.items():
                times[name].append(max(group.gather(run())))  # the slowest is what a step takes
        if group.first:
            print(json.dumps({"times": times, "jax": jax.__version__, "device": jax.devices()[0].device_kind}))


def measure(count: int, args) -> dict:
    with socket.create_server(("", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "benchmarks.weak_scaling", "--experiment", args.experiment]
    command += ["--share", str(args.share), "--steps", str(args.steps), "--rounds", str(args.rounds), "--work"]
    own = {"TRM_COORDINATOR": f"127.0.0.1:{port}", "TRM_PROCESSES": str(count), "JAX_PLATFORMS": "cpu"}
    processes = [
        subprocess.Popen(command, env={**os.environ, **own, "TRM_PROCESS": str(number)}, stdout=subprocess.PIPE)
        for number in range(count)
    ]
    outputs = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        sys.exit(f"{count} processes did not come to their end")
    return json.loads(outputs[0].splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--experiment", default="mini_baseline")
    parser.add_argument("--share", type=int, default=32, help="examples of a step that each process holds (32)")
    parser.add_argument("--steps", type=int, default=5, help="steps of a round (5)")
    parser.add_argument("--rounds", type=int, default=5, help="(5)")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        work(args.experiment, args.share, args.steps, args.rounds)
        return
    print(f"{args.experiment}, {args.share} examples a process, float32; {os.cpu_count()} cores, {platform.machine()}")
    print("| processes | own run each, ms a step | one run together, ms a step | of it for each other |")
    print("|---|---|---|---|")
    for count in args.processes:
        found = measure(count, args)
        alone, together = (statistics.median(found["times"][kind]) * 1e3 for kind in ("alone", "together"))
        shares = [1 - a / b for a, b in zip(found["times"]["alone"], found["times"]["together"], strict=True)]
        print(
            f"| {count} | {alone:.1f} | {together:.1f} | {statistics.median(shares):.0%} "
            f"({min(shares):.0%} to {max(shares):.0%}, n = {args.rounds}) |",
            flush=True,
        )
    print(f"jax {found['jax']}, {found['device']}, Python {platform.python_version()}")


if __name__ == "__main__":
    main()
