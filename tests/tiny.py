"""Runs small enough to make by the dozen: 4x4 Sudoku, 29,122 parameters, a second each once compiled."""

from __future__ import annotations

import io
import json
import shutil
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental.compilation_cache import compilation_cache

from trm_jax.configs import registry, resolve
from trm_jax.configs.defaults import defaults
from trm_jax.configs.workdir import claim
from trm_jax.models.params import path_name
from trm_jax.train.loop import CHECKPOINTS, Outcome, train
from trm_jax.train.step import hparams_of, make_train_step
from trm_jax.train.stopping import StopRequest

# Every setting, so that nothing here changes when an experiment does.
SETTINGS = {
    **{key: value for key, value in resolve.flatten(defaults()).items() if key != "name"},
    "data.source": "generated",
    "data.size": 4,
    "data.train_puzzles": 16,
    "data.test_puzzles": 12,
    "data.augmentations": 20,
    "model.hidden_size": 32,
    "model.num_heads": 2,
    "model.puzzle_emb_ndim": 32,
    "model.puzzle_emb_len": 1,
    "model.mlp_t": False,
    "model.L_layers": 1,
    "model.H_cycles": 2,
    "model.L_cycles": 2,
    "model.halt_max_steps": 3,
    "model.dtype": "float32",
    "optim.lr": 1e-3,
    "optim.warmup_steps": 4,
    "optim.min_lr_ratio": 0.1,
    "optim.table_lr": 1e-3,
    "optim.weight_decay": 0.1,
    "optim.ema_decay": 0.99,
    "train.batch_size": 8,
    "train.steps": 12,
    "eval.every_steps": 6,
    "eval.batch_size": 8,
    "checkpoint.every_steps": 3,
    "log.every_steps": 2,
}

# Learns 4x4 boards with a few more clues than needed in seconds: 99 of 100 held out after 100 steps.
SOLVER = {
    "data.train_puzzles": 200,
    "data.test_puzzles": 40,
    "data.extra_clues": 4,
    "data.augmentations": 1000,
    "model.hidden_size": 64,
    "model.puzzle_emb_ndim": 64,
    "model.mlp_t": True,
    "model.pos_encodings": "none",
    "optim.lr": 2e-3,
    "optim.ema_decay": 0.9,
    "train.batch_size": 64,
    "train.steps": 200,
    "eval.every_steps": 100,
    "eval.batch_size": 40,
    "checkpoint.every_steps": 100,
    "checkpoint.keep_last": 2,
    "log.every_steps": 20,
}


class StopAfter(StopRequest):
    """Asks to stop once `count` records stand in the metrics file: always at the same step."""

    def __init__(self, workdir: Path, count: int):
        super().__init__()
        self._file, self._count = workdir / "metrics.jsonl", count

    def __bool__(self) -> bool:
        if self._file.exists() and self._file.read_text().count("\n") >= self._count:
            self.name = "SIGTERM"
        return super().__bool__()


def _settings(changes: dict | None) -> dict:
    """SETTINGS with `changes`; of another task or family only what the changes say of it."""
    changes = changes or {}
    others = tuple(key.partition(".")[0] + "." for key in ("data.task", "model.family") if key in changes)
    return {key: value for key, value in SETTINGS.items() if not key.startswith(others or ("-",))} | changes


def page(changes: dict | None = None):
    """The config page of a tiny run with dotted `changes`."""
    return resolve.override(registry.get("demo"), _settings(changes))


def arguments(changes: dict | None = None) -> list[str]:
    """The same for the command line, behind `trm train demo`."""
    return ["--set", *(f"{key}={value}" for key, value in _settings(changes).items())]


@cache
def _data(task, cfg):
    return task.load(cfg)


def config(changes: dict | None = None):
    """The frozen config of a tiny run."""
    return resolve.freeze(page(changes))


def data(changes: dict | None = None):
    """Its (training source, evaluation source)."""
    cfg = config(changes)
    return _data(cfg.task, cfg.data)


def train_step(cfg, total_steps: int | None = None):
    """The compiled training step of a frozen config: (state, batch) -> (state, sums)."""
    total_steps = total_steps or cfg.train.steps
    hparams, step = hparams_of(cfg, total_steps), jax.jit(make_train_step(cfg, total_steps))
    return lambda state, batch: step(state, batch, hparams)


def train_here(workdir: Path, changes: dict | None = None, *, devices: int = 1, stop=None, lines=None) -> Outcome:
    """Train in this process on the first `devices` devices; what a log would show is appended to the list `lines`."""
    settings, shown = page(changes), io.StringIO()
    try:
        with claim(workdir, settings):
            return train(
                resolve.freeze(settings),
                workdir,
                data=data(changes),
                stop=stop,
                stream_to=shown,
                devices=jax.devices()[:devices],
            )
    finally:
        if lines is not None:
            lines += shown.getvalue().splitlines()


def steps(workdir: Path) -> list[int]:
    """Steps of the finished checkpoints, by their folders."""
    return sorted(int(folder.name) for folder in (workdir / CHECKPOINTS).iterdir() if folder.name.isdigit())


def state(workdir: Path, step: int) -> dict[str, np.ndarray]:
    """Every array of a checkpoint by its path, read by Orbax alone."""
    with ocp.PyTreeCheckpointer() as reader:
        folder = workdir.resolve() / CHECKPOINTS / str(step) / "state"
        tree = reader.metadata(folder).item_metadata.tree
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        restored = reader.restore(folder, restore_args=as_numpy)
    return {path_name(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(restored)}


def records(workdir: Path, kind: str = "") -> list[dict]:
    """The metrics file without its clocks, one kind of record or all."""
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    return [{k: v for k, v in r.items() if k != "clock"} for r in found if kind in ("", r["kind"])]


def assert_same_state(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    """Bit for bit."""
    assert one.keys() == other.keys()
    different = [
        name
        for name in one
        if one[name].dtype != other[name].dtype
        or one[name].shape != other[name].shape
        or one[name].tobytes() != other[name].tobytes()
    ]
    assert not different, f"different arrays: {different}"


def assert_moved_alike(one: Path, other: Path, start: int, end: int) -> None:
    """Two runs that differ by rounding: from step `start` to step `end` each array of their states moved alike.

    AdamATan2 moves a weight by about lr whatever its gradient, so where a gradient is of the size of rounding its sign
    decides; few weights are like that. The difference is held to 1% of the movement's norm: from 1 to 8 devices it was
    0.014%, without weight decay 2.8%, with other examples 30%, with half the learning rate 50%. The least that is
    allowed is the rounding of the array itself.
    """
    (before, after), (before_other, after_other) = ([state(run, step) for step in (start, end)] for run in (one, other))
    assert after.keys() == after_other.keys()
    for name, values in after.items():
        if values.dtype != np.float32:
            np.testing.assert_array_equal(after_other[name], values, err_msg=name)
            continue
        moved, moved_other = (
            np.float64(a) - b for a, b in ((values, before[name]), (after_other[name], before_other[name]))
        )
        apart, allowed = (
            np.linalg.norm(moved_other - moved),
            0.01 * np.linalg.norm(moved) + 1e-6 * np.linalg.norm(values),
        )
        assert apart <= allowed, f"{name}: {apart:.3g} apart, {allowed:.3g} allowed"


def assert_same_end(one: Path, other: Path) -> None:
    """Two workdirs end with bitwise the same state, the same metrics and the same checkpoints."""
    assert records(one) == records(other)
    assert steps(one) == steps(other)
    assert_same_state(state(one, steps(one)[-1]), state(other, steps(other)[-1]))


@contextmanager
def warm_compilations(folder: Path):
    """Compile each program once for all the tests of a folder: runs of the same shape find it on the disk."""
    settings = {
        "jax_compilation_cache_dir": str(folder),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in settings}
    for name, value in settings.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    try:
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()


def language_model(folder: Path, name: str = "llama", context: int = 4096) -> Path:
    """A copy of a golden GGUF file, of random weights, that was made for as many tokens as tests ask it for."""
    import gguf

    copy = folder / f"{name}.gguf"
    shutil.copy(Path(__file__).with_name("golden") / "llm" / "gguf" / f"{name}_mixed.gguf", copy)
    gguf.GGUFReader(copy, "r+").fields[f"{name}.context_length"].parts[-1][0] = context
    return copy
