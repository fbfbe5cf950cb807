"""The phase of `benchmarks.gpu` that trains, and its export, from which a later call goes on."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import signal
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.gpu import ROOT
from benchmarks.gpu_run import SMALL, Run

PIECE_BYTES = 15_990_000
PIECES = 4  # with gpu.json and train.jsonl: 6 files


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
