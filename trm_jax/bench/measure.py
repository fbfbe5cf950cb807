"""A run's own compiled programs on synthetic batches of its shape, and how a call of them is timed.

B = batch, S = tokens of a row. How long a program takes does not depend on the values in a batch, but it may on how
sequences are packed into its rows.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from trm_jax import compiler, sharding
from trm_jax.bench.shapes import dtype
from trm_jax.data.dataset import Batch
from trm_jax.evals.decode import CHUNK, Decoder, collate
from trm_jax.evals.runner import jit_eval_step
from trm_jax.models import params as P
from trm_jax.train.compiled import jit_train_step
from trm_jax.train.config import RunConfig
from trm_jax.train.state import abstract_state, evaluation_params, initial_state, shardings_of
from trm_jax.train.step import hparams_of

TOTAL_STEPS = 100_000  # of the schedule
WRITTEN = CHUNK  # tokens behind a prompt
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


def random_batch(cfg: RunConfig, rows: int, number: int = 0, held_out: bool = False) -> Batch:
    """Rows of training, or of the evaluation set, as the task makes them up; number: which batch.

    Of a task that makes none up: random tokens and puzzle ids in the shapes of its `batch_spec`.
    """
    if hasattr(cfg.task, "made_up"):
        train, evaluation = cfg.task.made_up(cfg.data)
        if held_out:
            return evaluation.rows(np.arange(rows) % len(evaluation))
        return train.batch(number, np.arange(rows), seed=cfg.seed, batch_size=rows)
    rng = np.random.default_rng(number)
    bounds = {"puzzle_ids": (0, cfg.model.num_puzzle_ids)}
    return {
        name: rng.integers(*bounds.get(name, (1, cfg.model.vocab_size)), (rows, *shape), dtype=dtype)
        for name, (shape, dtype) in cfg.task.batch_spec(cfg.data).items()
    }


def random_prompts(cfg: RunConfig, rows: int) -> list[dict[str, np.ndarray]]:
    """So many of the questions that the task makes up, those of about median length."""
    questions = cfg.task.made_up(cfg.data)[1].questions()
    ordered = np.argsort(questions.sizes, kind="stable")
    first = max(0, (len(ordered) - rows) // 2)
    return [questions.prompt(int(n)) for n in np.resize(ordered[first : first + rows], rows)]


def writes(cfg: RunConfig) -> bool:
    """Whether the run's model answers by writing token by token, to questions that its task makes up."""
    return hasattr(cfg.family, "begin") and not cfg.models and hasattr(cfg.task, "made_up")


def least_read(cfg: RunConfig, prompts: Sequence[Mapping[str, np.ndarray]]) -> int:
    """Bytes that writing WRITTEN tokens behind each of these prompts reads at least.

    For every token the weights in the compute dtype, without tables, of which it reads a row; for every one but the
    first, which the prompt itself gives, the cache of all before it.
    """
    family, model = cfg.family, cfg.model
    specs, batch = family.specs(model), collate(prompts, max(len(one["inputs"]) for one in prompts))
    rows, size = batch["inputs"].shape
    state = jax.eval_shape(lambda params: family.begin(params, model, batch, size), P.abstract(specs))
    of_token = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state["cache"])) // (rows * size)
    read = [spec for spec in jax.tree.leaves(specs["weights"], is_leaf=P.is_spec) if "embedding" not in spec.kind]
    cached = sum(len(one["inputs"]) + n for one in prompts for n in range(1, WRITTEN))
    return WRITTEN * P.count(read) * jnp.dtype(dtype(cfg)).itemsize + cached * of_token


def first_params(cfg: RunConfig) -> dict:
    """The parameters that the run begins with."""
    return jax.jit(lambda key: initial_state(cfg, key).params)(jax.random.key(cfg.seed))


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
        batch = self.put(random_batch(cfg, cfg.train.batch_size))
        hparams = sharding.put_whole(self.mesh, hparams_of(cfg, TOTAL_STEPS))
        jitted = jit_train_step(cfg, TOTAL_STEPS, cfg.model, self.abstract, self.mesh)
        step, facts = _compiled(jitted, self.state, batch, hparams)

        def call(batch=batch):
            self.state, sums = step(self.state, batch, hparams)
            return sums

        return call, facts

    def evaluate(self, rows: int) -> tuple[Call, dict]:
        """Evaluation of one batch."""
        batch = self.put({**random_batch(self.cfg, rows, held_out=True), "counted": np.ones(rows, bool)})
        rest = batch, batch.pop("counted")
        step, facts = _compiled(jit_eval_step(self.cfg, 0, self.mesh), self._params(), *rest)
        return lambda: step(self._params(), *rest), facts

    def think(self, rows: int) -> tuple[Call, dict]:
        """All the steps of thinking about so many puzzles, on the first device."""
        family, model, first = self.cfg.family, self.cfg.model, self.mesh.devices.flat[0]
        batch = jax.device_put(random_batch(self.cfg, rows, held_out=True), first)
        options = compiler.options(self.cfg.train.deterministic)
        jitted = jax.jit(lambda params, batch: family.think(params, model, batch), compiler_options=options)
        step, facts = _compiled(jitted, jax.device_put(self._params(), first), batch)
        return lambda: step(jax.device_put(self._params(), first), batch), facts

    def write(self, rows: int) -> tuple[Call, dict]:
        """Greedy decoding of WRITTEN tokens [B, WRITTEN] behind each of `rows` prompts, on the first device.

        No token ends an answer. By the weights that the run begins with, whatever was trained meanwhile.
        """
        cfg, prompts = self.cfg, random_prompts(self.cfg, rows)
        decoder = Decoder(cfg.family, cfg.model, rows, end=-1)
        first = jax.device_put(first_params(cfg), self.mesh.devices.flat[0])
        sizes = np.array([len(prompt["inputs"]) for prompt in prompts])

        def call() -> np.ndarray:
            (written,) = decoder(first, prompts.__getitem__, sizes, WRITTEN)
            return np.stack([one.tokens for one in sorted(written, key=lambda one: one.prompt)])

        return call, {"tokens": rows * WRITTEN, "least_read": least_read(cfg, prompts)}

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
