"""The phases of `benchmarks.gpu` that check: golden trajectories, kernels against their oracles, determinism."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import importlib.metadata
import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.gpu import ROOT
from benchmarks.gpu_run import SMALL, Run


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
            start = jax.device_get(programs.state)

            def go(state, first, last, programs=programs, call=call, lies=lies):
                programs.state = jax.device_put(state, lies)
                for number in range(first, last):
                    call(programs.put(measure.random_batch(programs.cfg, programs.cfg.train.batch_size, number)))
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
