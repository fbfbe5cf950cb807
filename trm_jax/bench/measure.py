"""A run's own compiled programs on synthetic batches of its shape, and how a call of them is timed.

B = batch, S = tokens of a row. What a program computes does not depend on the values in a batch.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from trm_jax import compiler, sharding
from trm_jax.evals.runner import jit_eval_step
from trm_jax.train.compiled import jit_train_step
from trm_jax.train.config import RunConfig
from trm_jax.train.state import abstract_state, evaluation_params, initial_state, shardings_of
from trm_jax.train.step import hparams_of

TOTAL_STEPS = 100_000  # of the schedule
Call = Callable[[], Any]


def spread(values: Iterable[float]) -> dict[str, float]:
    """Median, first and third quartile, and how many there are."""
    values = sorted(values)
    low, _, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    return {"median": statistics.median(values), "q1": low, "q3": high, "n": len(values)}


def sampler(call: Call, group_s: float = 0.1) -> Callable[[], float]:
    """A function that takes one sample of the seconds of `call`, which is warmed up here.

    A sample is the mean of as many queued calls as take `group_s` together, as in a loop that does not wait for each.
    """
    jax.block_until_ready(call())
    began = time.perf_counter()
    jax.block_until_ready(call())
    group = max(1, min(1000, round(group_s / (time.perf_counter() - began))))

    def once() -> float:
        began = time.perf_counter()
        for _ in range(group):
            out = call()
        jax.block_until_ready(out)
        return (time.perf_counter() - began) / group

    return once


def timed(call: Call, seconds: float, most: int = 30) -> dict[str, float]:
    """`spread` of the seconds of a call: three samples, and more up to `most` while there is time."""
    ends = time.perf_counter() + seconds
    once = sampler(call)
    samples = [once() for _ in range(3)]
    while len(samples) < most and time.perf_counter() + samples[-1] < ends:
        samples.append(once())
    return spread(samples)


def random_batch(model, rows: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Random inputs [B, S], labels [B, S] and puzzle ids [B], int32."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(1, model.vocab_size, (2, rows, model.seq_len), dtype=np.int32)
    ids = rng.integers(0, model.num_puzzle_ids, rows, dtype=np.int32)
    return {"inputs": tokens[0], "labels": tokens[1], "puzzle_ids": ids}


def _compiled(jitted, *args) -> tuple[Call, dict]:
    """The program for these arguments, the seconds of its compilation, and what it needs of a device's memory."""
    began = time.perf_counter()
    program = jitted.lower(*args).compile()
    facts = {"compile_s": time.perf_counter() - began}
    m = program.memory_analysis()
    needs = m.argument_size_in_bytes + m.output_size_in_bytes - m.alias_size_in_bytes + m.temp_size_in_bytes
    return program, facts | {"program_bytes": needs}


class Programs:
    """A run's compiled programs, each as a function that queues one call, with facts: compile_s, program_bytes."""

    def __init__(self, cfg: RunConfig, devices=None):
        """devices: those the mesh spans (default: all)."""
        self.cfg = cfg
        self.mesh = sharding.make_mesh(cfg.mesh.data, cfg.mesh.fsdp, cfg.mesh.tensor, devices)
        self.abstract = abstract_state(cfg, self.mesh)
        make = jax.jit(partial(initial_state, cfg), out_shardings=shardings_of(self.abstract))
        self.state = make(jax.random.key(cfg.seed))

    def put(self, batch: dict) -> dict[str, jax.Array]:
        """A batch where the programs take it."""
        return jax.device_put(batch, sharding.batch_sharding(self.mesh, sharding.Rules()))

    def train(self) -> tuple[Callable[..., dict], dict]:
        """One training step, on the same batch unless another is given; returns its sums."""
        cfg = self.cfg
        batch = self.put(random_batch(cfg.model, cfg.train.batch_size))
        hparams = sharding.put_whole(self.mesh, hparams_of(cfg, TOTAL_STEPS))
        jitted = jit_train_step(cfg, TOTAL_STEPS, cfg.model, self.abstract, self.mesh)
        step, facts = _compiled(jitted, self.state, batch, hparams)

        def call(batch=batch):
            self.state, sums = step(self.state, batch, hparams)
            return sums

        return call, facts

    def evaluate(self, rows: int) -> tuple[Call, dict]:
        """Evaluation of one batch."""
        batch = self.put({**random_batch(self.cfg.model, rows), "counted": np.ones(rows, bool)})
        rest = batch, batch.pop("counted")
        step, facts = _compiled(jit_eval_step(self.cfg, 0, self.mesh), self._params(), *rest)
        return lambda: step(self._params(), *rest), facts

    def think(self, rows: int) -> tuple[Call, dict]:
        """All the steps of thinking about so many puzzles, on the first device."""
        family, model, first = self.cfg.family, self.cfg.model, self.mesh.devices.flat[0]
        batch = jax.device_put(random_batch(model, rows), first)
        options = compiler.options(self.cfg.train.deterministic)
        jitted = jax.jit(lambda params, batch: family.think(params, model, batch), compiler_options=options)
        step, facts = _compiled(jitted, jax.device_put(self._params(), first), batch)
        return lambda: step(jax.device_put(self._params(), first), batch), facts

    def _params(self) -> dict:
        """Those of now: a training step takes the memory of the ones before."""
        return evaluation_params(self.state)[""]


def product(dtype: str, n: int) -> tuple[Call, float]:
    """A product of two random matrices [n, n] on the first device, and its FLOPs."""
    a, b = (jax.random.normal(key, (n, n), dtype) for key in jax.random.split(jax.random.key(0)))
    precision = jax.lax.Precision.HIGHEST if dtype == "float32" else None
    times = jax.jit(partial(jnp.matmul, precision=precision, preferred_element_type=dtype))
    return lambda: times(a, b), 2 * n**3


def copy(size: int) -> tuple[Call, float]:
    """Adding 1 to `size` bytes of float32 on the first device, in place, and the bytes read and written."""
    kept = [jnp.zeros(size // 4, jnp.float32)]
    add = jax.jit(lambda x: x + 1, donate_argnums=0)

    def call():
        kept[0] = add(kept[0])
        return kept[0]

    return call, 2 * size
