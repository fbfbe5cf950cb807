"""Timings of a run's own compiled programs, on synthetic batches of its shape.

B = batch, S = tokens of a row. What a step computes does not depend on the values in a batch.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from trm_jax import sharding
from trm_jax.evals.runner import jit_eval_step
from trm_jax.train.compiled import jit_train_step
from trm_jax.train.config import RunConfig
from trm_jax.train.state import abstract_state, evaluation_params, initial_state, shardings_of
from trm_jax.train.step import hparams_of

TOTAL_STEPS = 100_000  # of the schedule
_GROUP_S = 0.1  # calls are queued until they take so long together: the wait for the last one is then no matter


def spread(values: Iterable[float]) -> dict[str, float]:
    """Median, first and third quartile, and how many there are."""
    values = sorted(values)
    low, _, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    return {"median": statistics.median(values), "q1": low, "q3": high, "n": len(values)}


def timed(call: Callable[[], Any], seconds: float, most: int = 30) -> list[float]:
    """Seconds of one call, at least three and up to `most` times; the first call only warms up.

    Short calls are queued in groups and a sample is the mean of one, as a loop that never waits would have it.
    """
    began = time.perf_counter()
    jax.block_until_ready(call())
    once = time.perf_counter()
    jax.block_until_ready(call())
    once = time.perf_counter() - once
    group, samples = max(1, min(1000, math.ceil(_GROUP_S / once))), []
    while len(samples) < 3 or (len(samples) < most and time.perf_counter() - began + group * once < seconds):
        start = time.perf_counter()
        for _ in range(group):
            out = call()
        jax.block_until_ready(out)
        samples.append((time.perf_counter() - start) / group)
    return samples


def random_batch(model, rows: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Random inputs [B, S], labels [B, S] and puzzle ids [B], int32."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(1, model.vocab_size, (2, rows, model.seq_len), dtype=np.int32)
    ids = rng.integers(0, model.num_puzzle_ids, rows, dtype=np.int32)
    return {"inputs": tokens[0], "labels": tokens[1], "puzzle_ids": ids}


def program_bytes(compiled) -> int:
    """What a compiled program needs of a device's memory: arguments, results and temporaries."""
    m = compiled.memory_analysis()
    return m.argument_size_in_bytes + m.output_size_in_bytes - m.alias_size_in_bytes + m.temp_size_in_bytes


class Programs:
    """A run's training step and evaluation, compiled when they are first asked for; all devices unless told."""

    def __init__(self, cfg: RunConfig, devices=None):
        self.cfg = cfg
        self.mesh = sharding.make_mesh(cfg.mesh.data, cfg.mesh.fsdp, cfg.mesh.tensor, devices)
        self.lies = sharding.batch_sharding(self.mesh, sharding.Rules())
        self.abstract = abstract_state(cfg, self.mesh)
        make = jax.jit(partial(initial_state, cfg), out_shardings=shardings_of(self.abstract))
        self.state = make(jax.random.key(cfg.seed))

    def batch(self, rows: int) -> dict[str, jax.Array]:
        return {name: jax.device_put(x, self.lies) for name, x in random_batch(self.cfg.model, rows).items()}

    def train_call(self) -> tuple[Callable[[], Any], dict]:
        """A function that queues one training step, and figures of its compilation."""
        cfg = self.cfg
        batch = self.batch(cfg.train.batch_size)
        hparams = sharding.put_whole(self.mesh, hparams_of(cfg, TOTAL_STEPS))
        began = time.perf_counter()
        step = jit_train_step(cfg, TOTAL_STEPS, cfg.model, self.abstract, self.mesh)
        step = step.lower(self.state, batch, hparams).compile()
        figures = {"compile_s": time.perf_counter() - began, "program_bytes": program_bytes(step)}

        def call():
            self.state, sums = step(self.state, batch, hparams)
            return sums["loss"]

        return call, figures

    def train(self, seconds: float) -> dict:
        """Figures of a training step: compilation, memory, seconds of a step."""
        call, figures = self.train_call()
        rows, parts = self.cfg.train.batch_size, self.cfg.train.accumulation
        flops = rows * self.cfg.family.flops(self.cfg.model)[0]
        figures |= {"rows": rows, "accumulation": parts, "flops": flops}
        return figures | {"seconds": spread(timed(call, seconds))}

    def evaluate(self, seconds: float, rows: int) -> dict:
        """Figures of the evaluation of one batch of `rows`, every supervision step of it."""
        cfg = self.cfg
        params, batch = evaluation_params(self.state)[""], self.batch(rows)
        counted = jax.device_put(np.ones(rows, bool), self.lies)
        began = time.perf_counter()
        step = jit_eval_step(cfg, 0, self.mesh).lower(params, batch, counted).compile()
        compile_s = time.perf_counter() - began
        samples = timed(lambda: step(params, batch, counted)["count"], seconds)
        return {
            "rows": rows,
            "compile_s": compile_s,
            "program_bytes": program_bytes(step),
            "flops": rows * cfg.family.flops(cfg.model)[1],
            "seconds": spread(samples),
        }


def matmul_rate(n: int, seconds: float, dtype=jnp.bfloat16) -> dict[str, float]:
    """FLOP/s of the product of two random matrices [n, n] on the first device."""
    keys = jax.random.split(jax.random.key(0))
    a, b = (jax.random.normal(key, (n, n), dtype) for key in keys)
    product = jax.jit(lambda a, b: a @ b)
    return spread(2 * n**3 / s for s in timed(lambda: product(a, b), seconds))


def copy_rate(size: int, seconds: float) -> dict[str, float]:
    """Bytes a second, read and written, of adding 1 to `size` bytes of float32 on the first device."""
    x = jnp.zeros(size // 4, jnp.float32)
    add = jax.jit(lambda x: x + 1)
    return spread(2 * x.nbytes / s for s in timed(lambda: add(x), seconds))
