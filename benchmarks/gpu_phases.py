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

PIECE_BYTES = 15_990_000
PIECES = 4  # with gpu.json and train.jsonl: 6 files
SMALL = {
    "model.hidden_size": 64,
    "model.num_heads": 2,
    "model.puzzle_emb_ndim": 64,
    "model.puzzle_emb_len": 1,
    "model.L_layers": 1,
    "model.H_cycles": 2,
    "model.L_cycles": 1,
    "model.halt_max_steps": 4,
    "train.batch_size": 8,
    "eval.batch_size": 8,
}


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


def settings(run: Run) -> dict:
    """Changes to an experiment: those of tiny shapes."""
    return dict(SMALL) if run.tiny else {}


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


def _golden_tests():
    spec = importlib.util.spec_from_file_location("golden_tests", ROOT / "tests/models/test_golden.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _told(run: Run, path: tuple, name: str, measure: Callable) -> Callable:
    """`measure`, whose last result is among the figures."""

    def call(*args):
        value = measure(*args)
        run.found.setdefault(path[0], {}).setdefault(path[1], {})[f"last_{name}"] = value
        return value

    return call


def golden(run: Run) -> None:
    """The tests of the golden trajectories on this device, with every implementation that a setting offers."""
    from trm_jax.models import TRMConfig

    tests, original = _golden_tests(), _golden_tests()

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
                for measure in ("relative", "worst"):  # of a test that fails: by how much
                    setattr(tests, measure, _told(run, (label, name), measure, getattr(original, measure)))
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
                    run.say(*path, seconds=measure.timed(functools.partial(call, q, k, v, g), 1.0))


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
            call = functools.partial(jax.jit(functools.partial(both, impl)), params, x, g)
            forward = functools.partial(jax.jit(functools.partial(mix_tokens, eps=1e-5, impl=impl)), params, x)
            errors = {
                name: float(jnp.linalg.norm(a.astype(jnp.float32) - b) / jnp.linalg.norm(b))
                for name, a, b in zip(("y", "d_down", "d_gate_up", "dx"), call(), exact, strict=True)
            }
            run.say("token block", impl, relative_errors=errors)
            run.say("token block", impl, seconds=measure.timed(call, 1.0), forward=measure.timed(forward, 1.0))


def _digest(tree) -> str:
    import jax

    found = hashlib.sha256()
    for leaf in jax.tree.leaves(jax.device_get(tree)):
        found.update(np.ascontiguousarray(leaf).tobytes())
    return found.hexdigest()[:16]


def determinism(run: Run) -> None:
    """Twenty steps twice in a process, in two processes, and stopped in the middle: are the states bitwise equal?"""
    import jax

    from trm_jax.bench import measure
    from trm_jax.bench.shapes import shape
    from trm_jax.train.checkpoint import Checkpoints
    from trm_jax.train.config import CheckpointConfig
    from trm_jax.train.state import shardings_of

    changes = SMALL if run.tiny else {"train.batch_size": 128, "model.L_cycles": 2, "model.halt_max_steps": 4}
    names = ("baseline_768", "attention_768")
    for name in names:
        with run.part(name, needs=10) as enough:
            if not enough:
                continue
            programs = measure.Programs(shape(name, {**changes, "train.deterministic": True}))
            (call, _), lies = programs.train(), shardings_of(programs.abstract)
            start, model = jax.device_get(programs.state), programs.cfg.model

            def go(state, first, last, programs=programs, call=call, lies=lies, model=model):
                programs.state = jax.device_put(state, lies)
                for number in range(first, last):
                    call(programs.put(measure.random_batch(model, programs.cfg.train.batch_size, number)))
                return programs.state

            run.say(name, digest=(digest := _digest(go(start, 0, 20))))
            if run.args.again:
                continue
            run.say(name, same_process=_digest(go(start, 0, 20)) == digest)
            with tempfile.TemporaryDirectory() as folder:
                with contextlib.closing(Checkpoints(folder, "exact_accuracy", CheckpointConfig())) as checkpoints:
                    checkpoints.save(10, go(start, 0, 10), {}, 0.0)
                    checkpoints.wait()
                    state, _ = checkpoints.restore(10, programs.abstract)
            run.say(name, resumed=_digest(go(state, 10, 20)) == digest)
    if run.args.again:
        return
    with run.part("two processes", needs=10) as enough, tempfile.TemporaryDirectory() as folder:
        if enough:
            file, seconds = Path(folder) / "again.json", run.left()
            command = [sys.executable, "-m", "benchmarks.gpu_phases", "determinism", "--again", "--json", str(file)]
            command += ["--seconds", str(seconds), *["--tiny"] * run.tiny]
            subprocess.run(command, capture_output=True, cwd=ROOT, timeout=seconds)
            there = json.loads(file.read_text())
            for name in names:
                run.say("two processes", **{name: there[name].get("digest") == run.found[name]["digest"]})


def bench(run: Run) -> None:
    """Training step and evaluation of the five shapes against their floors, and what determinism costs the first."""
    from trm_jax.bench import suite
    from trm_jax.bench.shapes import SHAPES, shape

    configs = [shape(name, settings(run)) for name in SHAPES]
    if run.tiny:
        configs = [dataclasses.replace(c, model=dataclasses.replace(c.model, seq_len=81)) for c in configs]
    free = shape("baseline_768", settings(run) | {"train.deterministic": False})
    configs.append(dataclasses.replace(free, name="baseline_768, not deterministic"))
    suite.run(configs, run.left(), what=(suite.TRAIN, suite.EVALUATE), keep=lambda found: run.say(**found))


def torch(run: Run) -> None:
    """`baseline_768` in turns with the PyTorch twin, which torch.compile compiles on a GPU."""
    from trm_jax.bench import suite
    from trm_jax.bench.shapes import shape

    suite.require_twin()
    cfg = shape("baseline_768", settings(run) | {"train.deterministic": False})
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
    leaves = [
        np.asarray(leaf.view(jax.numpy.bfloat16), np.float32) if leaf.dtype == np.uint16 else leaf for leaf in leaves
    ]
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
