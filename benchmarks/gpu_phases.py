"""The phases of `benchmarks.gpu`, each run in a process of its own:

    python -m benchmarks.gpu_phases NAME --seconds S --json FILE [--tiny]

Every figure is written to FILE as soon as it is there.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import importlib.metadata
import importlib.util
import os
import platform
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.gpu_checks import determinism, golden
from benchmarks.gpu_run import Run, settings
from benchmarks.gpu_training import train


def rates(run: Run) -> None:
    """The card, the versions, and what it reaches in one large product and one large copy."""
    import jax

    from trm_jax.bench import measure

    device = jax.devices()[0]
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total,clocks.max.sm,power.limit", "--format=csv"]
    try:
        card = subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        card = []
    versions = {"python": platform.python_version()}
    for name in (
        "jax",
        "jaxlib",
        "jax-cuda13-plugin",
        "jax-cuda12-plugin",
        "torch",
        "triton",
        "flax",
        "optax",
        "orbax-checkpoint",
    ):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    with contextlib.suppress(ImportError, AttributeError):
        import torch

        versions["torch_cuda"] = torch.version.cuda
    run.say(device=device.device_kind, platform=device.platform, nvidia_smi=card, versions=versions)
    run.say(memory=device.memory_stats() or {}, cores=os.cpu_count(), platform_version=device.client.platform_version)
    n, size = (256, 2**20) if run.tiny else (8192, 2**30)

    def rate(call, work: float) -> dict:
        return measure.spread(work / measure.sampler(call)() for _ in range(10))

    for name, made in (
        ("copy_bytes_per_s", measure.copy(size)),
        ("product_flops_per_s", measure.product("bfloat16", n)),
        ("product_half_size_flops_per_s", measure.product("bfloat16", n // 2)),
        ("product_float32_flops_per_s", measure.product("float32", n // 2)),
    ):
        with run.part(name, needs=-60):  # all that follows stands on these
            run.say(name, **rate(*made))


def bench(run: Run) -> None:
    """Training step and evaluation of the five shapes against their floors, and what determinism costs the first."""
    from trm_jax.bench import suite
    from trm_jax.bench.shapes import DEFAULT, shape

    sides = {"maze_hard": {"data.height": 9, "data.width": 9}, "arc1": {"data.side": 9}} if run.tiny else {}
    configs = [shape(name, settings(run) | sides.get(name, {})) for name in DEFAULT]
    free = shape("baseline_768", settings(run) | {"train.deterministic": False})
    configs.append(dataclasses.replace(free, name="baseline_768, not deterministic"))
    suite.run(configs, run.left(), what=(suite.TRAIN, suite.EVALUATE), keep=lambda found: run.say(**found))


def torch(run: Run) -> None:
    """`baseline_768` in turns with the PyTorch twin, which torch.compile compiles on a GPU."""
    from trm_jax.bench import suite
    from trm_jax.bench.shapes import shape

    cfg = shape("baseline_768", settings(run) | {"train.deterministic": False})
    suite.require_twin([cfg])
    suite.run([cfg], run.left(), what=(suite.TRAIN, suite.TWIN), keep=lambda found: run.say(**found))


def packed(run: Run) -> None:
    """Four seeds of a small run as one vmapped step against one run at a time: puzzles a second, in all."""
    import jax

    from trm_jax.bench import measure
    from trm_jax.bench.shapes import shape
    from trm_jax.train.state import initial_state
    from trm_jax.train.step import hparams_of, make_train_step

    seeds = 4
    for name, dtype in (("demo", "float32"), ("mini_baseline", "float32"), ("demo", "bfloat16")):
        with run.part(name, dtype, needs=8) as enough:
            if not enough:
                continue
            cfg = shape(name, settings(run) | {"model.dtype": dtype})
            hparams, step = hparams_of(cfg, 1000), make_train_step(cfg, 1000)
            batch = jax.device_put(measure.random_batch(cfg, cfg.train.batch_size))
            batches = jax.tree.map(lambda x: jax.numpy.stack([x] * seeds), batch)
            init = functools.partial(initial_state, cfg)
            rate = {}
            for kind, advance, state, rows in (
                ("single", step, jax.jit(init)(jax.random.key(0)), batch),
                (
                    "packed",
                    jax.vmap(step, in_axes=(0, 0, None)),
                    jax.jit(jax.vmap(init))(jax.random.split(jax.random.key(0), seeds)),
                    batches,
                ),
            ):
                advance = jax.jit(advance, donate_argnums=0)
                kept = [state]

                def call(advance=advance, kept=kept, rows=rows, hparams=hparams):
                    kept[0], sums = advance(kept[0], rows, hparams)
                    return sums["loss"]

                seconds = measure.timed(call, 0.5 if run.tiny else 3.0)
                runs = seeds if kind == "packed" else 1
                rate[kind] = runs * cfg.train.batch_size / seconds["median"]
                run.say(name, dtype, **{kind: seconds})
            run.say(name, dtype, seeds=seeds, puzzles_per_s=rate, gain=rate["packed"] / rate["single"])


def kernels_of(folder: Path, steps: int, most: int = 25) -> dict:
    """What the devices did in a trace of so many steps: kernels by total time, and the share of time with one busy."""
    import jax

    path = max(folder.rglob("*.xplane.pb"))
    planes = list(jax.profiler.ProfileData.from_file(str(path)).planes)
    lines = [line for plane in planes if plane.name.startswith("/device:") for line in plane.lines]
    # A GPU's kernels are on its streams; other lines repeat them by module and step. A CPU has threads of XLA.
    kept = [line for line in lines if line.name.startswith("Stream")] or [
        line for line in lines if line.name == "XLA Ops"
    ]
    kept = kept or [line for plane in planes for line in plane.lines if "XLA" in line.name]
    total: dict[str, list] = {}
    spans = []
    for line in kept:
        for event in line.events:
            if event.name not in total:
                total[event.name] = [0.0, 0, {name: str(value)[:200] for name, value in event.stats if "op" in name}]
            total[event.name][0] += event.duration_ns
            total[event.name][1] += 1
            spans.append((event.start_ns, event.start_ns + event.duration_ns))
    spans.sort()
    busy, end = 0.0, spans[0][0]
    for start, stop in spans:
        busy += max(0.0, stop - max(start, end))
        end = max(end, stop)
    worked = sum(ns for ns, *_ in total.values())
    table = sorted(total.items(), key=lambda item: -item[1][0])[:most]
    return {
        "lines": [line.name for line in kept][:20],
        "busy_share": busy / (end - spans[0][0]),
        "ms_per_step": (end - spans[0][0]) / steps / 1e6,
        "kernels": [
            {"name": name[:160], "ms": ns / steps / 1e6, "per_step": count / steps, "share": ns / worked, "of": stats}
            for name, (ns, count, stats) in table
        ],
    }


def profile(run: Run) -> None:
    """A trace of some steps of `baseline_768` and of the attention shape, as tables of kernels."""
    import jax

    from trm_jax.bench import measure
    from trm_jax.bench.shapes import shape

    for name in ("baseline_768", "attention_768"):
        with run.part(name, needs=10) as enough:
            if not enough:
                continue
            programs = measure.Programs(shape(name, settings(run)))
            call, _ = programs.train()
            jax.block_until_ready(call())
            with tempfile.TemporaryDirectory() as folder:
                with jax.profiler.trace(folder):
                    for _ in range(5):
                        out = call()
                    jax.block_until_ready(out)
                run.say(name, **kernels_of(Path(folder), 5))


PHASES: dict[str, Callable[[Run], None]] = {
    phase.__name__: phase for phase in (rates, golden, determinism, bench, torch, packed, profile, train)
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=PHASES)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--carry-from", type=Path)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--again", action="store_true", help="determinism: be the second process")
    args = parser.parse_args()
    if args.name in ("determinism", "torch", "train"):  # two programs share the card
        os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    else:
        os.environ["XLA_PYTHON_CLIENT_MEM_FRACTION"] = "0.92"
    if args.name == "determinism":  # a second process that took the first one's program would prove less
        os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"
    PHASES[args.name](Run(args, time.monotonic() + args.seconds))


if __name__ == "__main__":
    main()
