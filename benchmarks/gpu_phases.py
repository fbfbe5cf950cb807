"""The phases of `benchmarks.gpu`, each run in a process of its own:

    python -m benchmarks.gpu_phases NAME --seconds S --json FILE [--tiny]

Every figure is written to FILE as soon as it is there.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import hashlib
import importlib.metadata
import importlib.util
import io
import json
import os
import platform
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from benchmarks.gpu import ROOT, write

PIECE_BYTES = 16_000_000
PIECES = 4  # with gpu.json and train.jsonl: 6 files
SMALL = {"model.hidden_size": 64, "model.num_heads": 2, "model.puzzle_emb_ndim": 64, "model.puzzle_emb_len": 1,
         "model.L_cycles": 2, "model.halt_max_steps": 4, "train.batch_size": 8, "eval.batch_size": 8}  # fmt: skip


@dataclasses.dataclass
class Run:
    """One phase under way: what it was told, the time it has, and where its figures go."""

    args: argparse.Namespace
    ends: float
    found: dict = dataclasses.field(default_factory=dict)

    @property
    def tiny(self) -> bool:
        return self.args.tiny

    def left(self) -> float:
        """Seconds."""
        return self.ends - time.monotonic()

    def say(self, *path: str, **figures) -> None:
        """Keep figures under the place that `path` names, and write all of them."""
        place = self.found
        for name in path:
            place = place.setdefault(name, {})
        place.update(figures)
        write(self.args.json, self.found)

    @contextlib.contextmanager
    def part(self, *path: str, needs: float = 0.0) -> Iterator[bool]:
        """A part whose failure is written down and loses no other; yields whether there are `needs` seconds for it."""
        enough, began = self.left() > needs, time.monotonic()
        try:
            yield enough
        except Exception as error:  # noqa: BLE001 - of any kind: it is what this phase is to find out
            self.say(*path, error=f"{type(error).__name__}: {error}"[:1500])
        self.say(*path, **({"took_s": round(time.monotonic() - began, 1)} if enough else {"skipped": "no time left"}))


def settings(run: Run, **more) -> dict:
    """Changes to an experiment: those of tiny shapes, and more."""
    return {**(SMALL if run.tiny else {}), **{name.replace("__", "."): value for name, value in more.items()}}


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
    run.say(copy_bytes_per_s=measure.copy_rate(size, 1.0))
    run.say(matmul_flops_per_s=measure.matmul_rate(n, 1.0), matmul_n=n)


def _golden_tests():
    spec = importlib.util.spec_from_file_location("golden_tests", ROOT / "tests/models/test_golden.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def golden(run: Run) -> None:
    """The tests of the golden trajectories on this device, with every implementation that a setting offers."""
    from trm_jax.models import TRMConfig

    tests = _golden_tests()

    def load(name: str):
        with np.load(ROOT / f"tests/golden/{name}.npz") as file:
            return tests.Golden(dict(file))

    options = {f.name: f.metadata["options"] for f in dataclasses.fields(TRMConfig) if f.name.endswith("_impl")}
    defaults = TRMConfig(1, 1)
    variants = [{}] + [
        {name: value} for name, values in options.items() for value in values if value != getattr(defaults, name)
    ]
    cases = [
        ("trm_attention", tests.test_ten_steps),
        ("twin_mlp_t", tests.test_ten_steps),
        ("trm_mlp_t", tests.test_mlp_t_every_step_from_the_official_state),
        ("trm_mlp_t free running", tests.test_mlp_t_free_running),
    ]
    for changes in variants:
        label = ", ".join(f"{name}={value}" for name, value in changes.items()) or "defaults"
        for name, test in cases:
            file = name.split()[0]
            if "attention_impl" in changes and file != "trm_attention":
                continue
            with run.part(label, name, needs=5) as enough:
                if not enough:
                    continue
                tests.show = lambda _, _path=(label, name), **figures: run.say(*_path, **figures)
                follower = tests.Follower(load(file), 1, **changes)
                if test is tests.test_ten_steps:
                    test(lambda *_, run=follower: run, file, 1)
                else:
                    with_load = test is tests.test_mlp_t_every_step_from_the_official_state
                    test(follower, load) if with_load else test(follower)
                run.say(label, name, passed=True)
    _attention_oracle(run)
    _token_oracle(run)


def _attention_oracle(run: Run) -> None:
    """Every attention implementation against the dense one: relative errors of output and gradients, and times."""
    import jax
    import jax.numpy as jnp

    from trm_jax.bench import measure
    from trm_jax.models.attention import IMPLEMENTATIONS, attention

    shapes = [(2, 17, 2, 64)] if run.tiny else [(768, 97, 8, 64), (96, 916, 8, 64)]
    for shape in shapes:
        for dtype in ("float32", "bfloat16"):
            keys = jax.random.split(jax.random.key(0), 4)
            q, k, v, g = (jax.random.normal(key, shape, dtype) for key in keys)

            def both(impl, q, k, v, g):
                out, back = jax.vjp(lambda q, k, v: attention(q, k, v, impl=impl), q, k, v)
                return out, *back(g)

            exact = None
            for impl in IMPLEMENTATIONS:
                path = "attention", "x".join(map(str, shape)), dtype, impl
                with run.part(*path, needs=5) as enough:
                    if not enough:
                        continue
                    call = jax.jit(functools.partial(both, impl))
                    out = call(q, k, v, g)
                    if exact is None:  # dense comes first; in float32 from the same rounded inputs
                        wide = [x.astype(jnp.float32) for x in (q, k, v, g)]
                        exact = jax.jit(functools.partial(both, "dense"))(*wide)
                    errors = {
                        name: float(jnp.abs(a.astype(jnp.float32) - b).max() / jnp.abs(b).max())
                        for name, a, b in zip(("out", "dq", "dk", "dv"), out, exact, strict=True)
                    }
                    run.say(*path, relative_errors=errors)
                    run.say(*path, seconds=measure.spread(measure.timed(functools.partial(call, q, k, v, g), 1.0)))


def _token_oracle(run: Run) -> None:
    """The kernels of the token-mixing block against the plain form in float32, and the times of both."""
    import jax
    import jax.numpy as jnp

    from trm_jax.bench import measure
    from trm_jax.models.token_mlp import IMPLEMENTATIONS, mix_tokens

    tokens, batch, width, inner = (17, 2, 24, 32) if run.tiny else (97, 768, 512, 512)
    keys = jax.random.split(jax.random.key(0), 4)
    params = {
        "gate_up": jax.random.normal(keys[0], (tokens, 2, inner)) / 10,
        "down": jax.random.normal(keys[1], (inner, tokens)) / 22,
    }
    x, g = (jax.random.normal(key, (tokens, batch, width), jnp.bfloat16) for key in keys[2:])

    def both(impl, params, x, g):
        y, back = jax.vjp(lambda params, x: mix_tokens(params, x, 1e-5, impl), params, x)
        return y, *jax.tree.leaves(back(g))

    exact = jax.jit(functools.partial(both, "plain"))(params, *(x.astype(jnp.float32) for x in (x, g)))
    for impl in IMPLEMENTATIONS:
        with run.part("token block", impl, needs=5) as enough:
            if not enough:
                continue
            call = jax.jit(functools.partial(both, impl))
            out = call(params, x, g)
            errors = [
                float(jnp.linalg.norm(a.astype(jnp.float32) - b) / jnp.linalg.norm(b)) for a, b in zip(out, exact)
            ]
            run.say("token block", impl, relative_errors=dict(zip(("y", "d_down", "d_gate_up", "dx"), errors)))
            seconds = measure.spread(measure.timed(functools.partial(call, params, x, g), 1.0))
            forward = jax.jit(lambda params, x: mix_tokens(params, x, 1e-5, impl))
            ahead = measure.spread(measure.timed(functools.partial(forward, params, x), 1.0))
            run.say("token block", impl, seconds=seconds, forward_seconds=ahead)


def _digest(tree) -> str:
    import jax

    found = hashlib.sha256()
    for leaf in jax.tree.leaves(jax.device_get(tree)):
        found.update(np.ascontiguousarray(leaf).tobytes())
    return found.hexdigest()[:16]


def _trajectory(name: str, changes: dict, steps: int, start=None):
    """State after `steps` training steps on random batches, from the beginning or from (step, state)."""
    import jax

    from trm_jax import sharding
    from trm_jax.bench import measure
    from trm_jax.bench.shapes import shape
    from trm_jax.train.compiled import jit_train_step
    from trm_jax.train.step import hparams_of

    cfg = shape(name, changes)
    programs = measure.Programs(cfg)
    hparams = sharding.put_whole(programs.mesh, hparams_of(cfg, 100))
    step = jit_train_step(cfg, 100, cfg.model, programs.abstract, programs.mesh)
    first, state = start or (0, programs.state)
    for number in range(first, steps):
        rows = measure.random_batch(cfg.model, cfg.train.batch_size, seed=number)
        state, _ = step(state, {name: jax.device_put(x, programs.lies) for name, x in rows.items()}, hparams)
    return programs, state


def determinism(run: Run) -> None:
    """Twenty steps twice in a process, in two processes, and stopped in the middle: are the states bitwise equal?"""
    from trm_jax.train.checkpoint import Checkpoints
    from trm_jax.train.config import CheckpointConfig

    base = {"model.hidden_size": 256, "model.num_heads": 4, "model.puzzle_emb_ndim": 256, "model.dtype": "bfloat16",
            "train.batch_size": 128, "model.L_cycles": 2, "model.halt_max_steps": 4}  # fmt: skip
    base |= {**SMALL, "model.dtype": "bfloat16"} if run.tiny else {}
    for name in ("baseline_768", "attention_768"):
        changes = base | {"train.deterministic": True}
        if run.args.again:  # the second process
            return print(
                json.dumps(
                    [name, *(_digest(_trajectory(n, changes, 20)[1]) for n in ("baseline_768", "attention_768"))]
                )
            )
        with run.part(name, needs=15) as enough:
            if not enough:
                continue
            digests = [_digest(_trajectory(name, changes, 20)[1]) for _ in range(2)]
            run.say(name, same_process=digests[0] == digests[1], digests=digests)
            with (
                tempfile.TemporaryDirectory() as folder,
                contextlib.closing(Checkpoints(folder, "exact_accuracy", CheckpointConfig())) as checkpoints,
            ):
                programs, state = _trajectory(name, changes, 10)
                checkpoints.save(10, state, {})
                checkpoints.wait()
                state, _ = checkpoints.restore(10, programs.abstract)
                resumed = _digest(_trajectory(name, changes, 20, (10, state))[1])
            run.say(name, resumed=resumed == digests[0])
    with run.part("two processes", needs=20) as enough:
        if enough:
            command = [sys.executable, "-m", "benchmarks.gpu_phases", "determinism", "--again", "--seconds", "60"]
            command += ["--json", os.devnull, *["--tiny"] * run.tiny]
            told = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
            if told.returncode:
                raise RuntimeError(told.stderr[-1000:])
            there = json.loads(told.stdout.splitlines()[-1])[1:]
            here = [run.found[name]["digests"][0] for name in ("baseline_768", "attention_768")]
            run.say("two processes", equal=there == here, digests=there)


def bench(run: Run) -> None:
    """Training step and evaluation of the five shapes, and what determinism costs the first."""
    from trm_jax.bench import measure
    from trm_jax.bench.shapes import SHAPES, shape, smaller

    def train(label: str, cfg, seconds: float):
        for tried in smaller(cfg):
            with run.part(label, "train", needs=10) as enough:
                if not enough:
                    return None
                run.found.get(label, {}).get("train", {}).pop("error", None)
                run.say(label, "train", **(programs := measure.Programs(tried)).train(seconds))
                return programs
            if "RESOURCE_EXHAUSTED" not in run.found[label]["train"].get("error", ""):
                return None
            run.say(
                label, "too_large", **{f"in {tried.train.accumulation} parts": run.found[label]["train"]["error"][:200]}
            )
        return None

    jobs = [(name, {}) for name in SHAPES]
    jobs.insert(1, ("baseline_768, not deterministic", {"train.deterministic": False}))
    for label, more in jobs:
        name = label.split(",")[0]
        cfg = shape(name, settings(run) | more)
        if run.tiny and cfg.model.seq_len == 900:
            cfg = dataclasses.replace(cfg, model=dataclasses.replace(cfg.model, seq_len=100))
        programs = train(label, cfg, 4.0)
        if programs and not more:
            with run.part(label, "evaluate", needs=10) as enough:
                if enough:
                    run.say(label, "evaluate", **programs.evaluate(4.0, min(cfg.eval.batch_size, 768)))
        del programs


def torch(run: Run) -> None:
    """`baseline_768` against the PyTorch twin with torch.compile, interleaved."""
    from benchmarks import torch_speed

    if run.tiny:
        words = ["--config", "demo", "--batch", "6", "--rounds", "2"]
    else:
        words = ["--config", "baseline_768", "--batch", "768", "--dtype", "bfloat16", "--device", "cuda", "--compile"]
        words += ["--rounds", "11", "--set", "train.deterministic=false"]
    figures = torch_speed.measure(torch_speed.arguments(words))
    run.say(**figures | {"command": f"python -m benchmarks.torch_speed {' '.join(words)}"})


def packed(run: Run) -> None:
    """Four seeds of a small run as one vmapped step against one run at a time: puzzles a second, in all."""
    import jax

    from trm_jax.bench import measure
    from trm_jax.bench.shapes import shape
    from trm_jax.train.state import initial_state
    from trm_jax.train.step import hparams_of, make_train_step

    seeds = 4
    for name in ("demo", "mini_baseline"):
        for dtype in ("float32", "bfloat16"):
            with run.part(name, dtype, needs=8) as enough:
                if not enough:
                    continue
                cfg = shape(name, {"model.dtype": dtype})
                hparams, step = hparams_of(cfg, 1000), make_train_step(cfg, 1000)
                batch = jax.device_put(measure.random_batch(cfg.model, cfg.train.batch_size))
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

                    seconds = measure.spread(measure.timed(call, 0.5 if run.tiny else 3.0))
                    runs = seeds if kind == "packed" else 1
                    rate[kind] = runs * cfg.train.batch_size / seconds["median"]
                    run.say(name, dtype, **{kind: seconds})
                run.say(name, dtype, seeds=seeds, puzzles_per_s=rate, gain=rate["packed"] / rate["single"])


def kernels_of(folder: Path, steps: int, most: int = 25) -> dict:
    """What a device did in a trace: its kernels by total time, and the share of the time in which one ran."""
    import jax

    path = max(folder.rglob("*.xplane.pb"))
    planes = list(jax.profiler.ProfileData.from_file(str(path)).planes)
    devices = [plane for plane in planes if plane.name.startswith("/device:")] or planes
    total: dict[str, list[float]] = {}
    spans = []
    for plane in devices:
        for line in plane.lines:
            if plane.name.startswith("/device:") and not line.name.startswith(("Stream", "XLA Ops")):
                continue
            for event in line.events:
                one = total.setdefault(event.name, [0.0, 0])
                one[0] += event.duration_ns
                one[1] += 1
                spans.append((event.start_ns, event.start_ns + event.duration_ns))
    busy, end = 0.0, 0.0
    for start, stop in sorted(spans):
        busy += max(0.0, stop - max(start, end))
        end = max(end, stop)
    length = end - min(spans)[0]
    worked = sum(ns for ns, _ in total.values())
    table = sorted(total.items(), key=lambda item: -item[1][0])[:most]
    return {
        "planes": [[plane.name, [line.name for line in plane.lines][:20]] for plane in planes][:20],
        "busy_share": busy / length,
        "ms_per_step": length / steps / 1e6,
        "kernels": [
            {"name": name[:160], "ms_per_step": ns / steps / 1e6, "per_step": count / steps, "share": ns / worked}
            for name, (ns, count) in table
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
            call, _ = programs.train_call()
            jax.block_until_ready(call())
            with tempfile.TemporaryDirectory() as folder:
                with jax.profiler.trace(folder):
                    for _ in range(5):
                        out = call()
                    jax.block_until_ready(out)
                run.say(name, **kernels_of(Path(folder), 5))


def train(run: Run) -> None:
    """Train `baseline_768` in the time that is left, with `trm train`; export it; score some held-out puzzles."""
    output, args = run.args.output, run.args
    words = [
        "log.tensorboard=false",
        "eval.every_epochs=0",
        "checkpoint.every_minutes=2",
        "checkpoint.every_steps=100000",
    ]
    words += ["data.test_puzzles=10000", "checkpoint.keep_last=1", "train.deterministic=false"]
    if args.data:
        words += ["data.source=csv", f"data.path={args.data}", "data.test_file=test_10k.csv"]
    else:
        words += ["data.source=generated"]
    if run.tiny:
        words += [f"{name}={value}" for name, value in SMALL.items()] + ["model.dtype=float32"]
        words += ["data.test_puzzles=16", *["data.train_puzzles=20"] * (not args.data)]
    scoring = min(75.0, run.left() / 3)
    with tempfile.TemporaryDirectory() as folder:
        workdir = Path(folder) / "run"
        command = [sys.executable, "-m", "trm_jax", "train", "baseline_768", "--workdir", str(workdir), "--set", *words]
        if args.carry_from:
            run.say(carried_from=carry_in(args.carry_from, workdir), note=CARRY_NOTE)
        run.say(command=" ".join(command[1:]))
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT)
        try:
            said, _ = process.communicate(timeout=max(run.left() - scoring - 15, 5))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)
            said, _ = process.communicate()
        run.say(exit_code=process.returncode, said=said[-2000:])
        run.say(export=carry_out(workdir, output))
        with run.part("evaluation", needs=8) as enough:
            if enough:
                rows = 8 if run.tiny else 2048
                command = [sys.executable, "-m", "trm_jax", "eval", str(workdir), "--max-examples", str(rows)]
                command += ["--batch-size", str(min(rows, 1024))]
                told = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=max(run.left(), 1))
                run.say("evaluation", said=(told.stdout + told.stderr)[-1500:])
                path = workdir / "evals.jsonl"
                if path.exists():
                    run.say("evaluation", record=json.loads(path.read_text().splitlines()[-1]))


CARRY_NOTE = (
    "the export holds weights and averages, the optimiser's moments in bfloat16, and no latents of the batch, which "
    "start anew: this is not bitwise the run that it goes on from"
)
_PARTS = ("step", "params", "ema", "opt_state", "key")
_SMALL_FILES = ("config.json", "metrics.jsonl", "run.json", "goodput.json")


def _opened(workdir: Path):
    """(checkpoints, config, abstract state, mesh) of a run's folder."""
    from trm_jax import sharding
    from trm_jax.configs import resolve
    from trm_jax.configs.workdir import load_config
    from trm_jax.train.checkpoint import Checkpoints
    from trm_jax.train.state import abstract_state
    from trm_jax.train.writers import CHECKPOINTS

    cfg = resolve.freeze(load_config(workdir))
    mesh = sharding.make_mesh()
    checkpoints = Checkpoints(workdir / CHECKPOINTS, cfg.task.headline, cfg.checkpoint)
    return checkpoints, cfg, abstract_state(cfg, mesh), mesh


def _halved(leaf):
    """A float32 array as the bits of bfloat16, which NumPy's files do not know."""
    import jax.numpy as jnp

    return np.asarray(leaf.astype(jnp.bfloat16)).view(np.uint16) if leaf.dtype == jnp.float32 else leaf


def carry_out(workdir: Path, output: Path) -> dict:
    """Write the newest checkpoint of a run without its carry, and its records, as `train.NUMBER` pieces."""
    import jax

    checkpoints, _, abstract, _ = _opened(workdir)
    with contextlib.closing(checkpoints):
        step = checkpoints.steps()[-1]
        state, meta = checkpoints.restore(step, {name: getattr(abstract, name) for name in _PARTS})
    state["opt_state"] = jax.tree.map(_halved, state["opt_state"])
    leaves = jax.device_get(jax.tree.leaves(state))
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name in _SMALL_FILES:
            if (workdir / name).exists():
                tar.add(workdir / name, name)
        arrays = io.BytesIO()
        np.savez(arrays, *leaves)
        for name, content in (("state.npz", arrays.getvalue()), ("meta.json", json.dumps(meta).encode())):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    content = packed.getvalue()
    pieces = [content[i : i + PIECE_BYTES] for i in range(0, len(content), PIECE_BYTES)]
    if len(pieces) > PIECES:
        raise ValueError(f"{len(content):,} bytes do not fit into {PIECES} pieces of {PIECE_BYTES:,}")
    for old in output.glob("train.[0-9]"):
        old.unlink()
    for number, piece in enumerate(pieces):
        (output / f"train.{number}").write_bytes(piece)
    if (workdir / "metrics.jsonl").exists():
        (output / "train.jsonl").write_bytes((workdir / "metrics.jsonl").read_bytes())
    return {
        "step": int(step),
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "pieces": len(pieces),
    }


def carry_in(folder: Path, workdir: Path) -> dict:
    """Make of an export a run's folder that `trm train` goes on from, with a carry at its beginning."""
    import jax

    from trm_jax.models import params as P

    pieces = sorted(folder.glob("train.[0-9]"))
    content = b"".join(piece.read_bytes() for piece in pieces)
    workdir.mkdir(parents=True)
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        tar.extractall(workdir, filter="data")
    meta = json.loads((workdir / "meta.json").read_text())
    checkpoints, cfg, abstract, _ = _opened(workdir)
    parts = {name: getattr(abstract, name) for name in _PARTS}
    with np.load(workdir / "state.npz") as arrays:
        leaves = list(arrays.values())
    wanted, shape = jax.tree.flatten(parts)
    leaves = [np.asarray(leaf.view(jax.numpy.bfloat16), np.float32) if leaf.dtype == np.uint16 else leaf for leaf in leaves]
    put = [jax.device_put(leaf, want.sharding) for leaf, want in zip(leaves, wanted, strict=True)]
    carry = jax.device_put(
        P.init(cfg.family.carry_specs(cfg.model, cfg.train.batch_size), jax.random.key(0)),
        jax.tree.map(lambda a: a.sharding, abstract.carry),
    )
    state = abstract.replace(**shape.unflatten(put), carry=carry)
    step = int(state.step)
    with contextlib.closing(checkpoints):
        checkpoints.save(step, state, meta)
        checkpoints.wait()
    for name in ("state.npz", "meta.json"):
        (workdir / name).unlink()
    return {"step": step, "sha256": hashlib.sha256(content).hexdigest()}


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
    parser.add_argument("--again", action="store_true")
    args = parser.parse_args()
    if args.name in ("determinism", "torch", "train"):  # two processes share the card
        os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    else:
        os.environ["XLA_PYTHON_CLIENT_MEM_FRACTION"] = "0.92"
    PHASES[args.name](Run(args, time.monotonic() + args.seconds))


if __name__ == "__main__":
    main()
