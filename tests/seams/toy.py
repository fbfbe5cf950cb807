"""A task and a family that the package knows nothing of: reversing a row of digits, with two linear layers.

trm train demo --set data.task=tests.seams.toy:REVERSAL model.family=tests.seams.toy:mixer ...
"""

from __future__ import annotations

import hashlib
import types
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax

from trm_jax.data.addressing import PoolTrain
from trm_jax.data.dataset import DatasetInfo
from trm_jax.errors import InputError
from trm_jax.models import params as P
from trm_jax.models.family import Rows

DIGITS = 5


@dataclass(frozen=True)
class ReversalConfig:
    length: int = 4
    rows: int = 24
    held_out: int = 10
    ids: int = 300  # rows of a table: it is padded, and shared by the devices


@dataclass(frozen=True)
class Digits:
    """Rows of digits; the example of (group, variant) is row `group`, whatever the variant."""

    info: DatasetInfo
    inputs: np.ndarray  # [N, S]

    @property
    def variants(self) -> np.ndarray:
        return np.ones(len(self.inputs), np.int64)

    def __len__(self) -> int:
        return len(self.inputs)

    def rows(self, indices) -> dict:
        inputs = self.inputs[indices]
        ids = (np.asarray(indices) * 37 % self.info.num_puzzle_ids).astype(np.int32)
        return {"inputs": inputs, "labels": inputs[:, ::-1].copy(), "puzzle_ids": ids}

    def examples(self, groups, variants) -> dict:
        return self.rows(groups)

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.inputs.tobytes()).hexdigest()


class Reversal:
    """The task."""

    Config = ReversalConfig
    headline = "reversed"

    def info(self, cfg):
        return DatasetInfo(DIGITS, cfg.length, cfg.ids, cfg.rows)

    def eval_size(self, cfg):
        return cfg.held_out

    def load(self, cfg, *, progress=None):
        draw = np.random.default_rng(0).integers(0, DIGITS, (cfg.rows + cfg.held_out, cfg.length), np.int32)
        train, test = Digits(self.info(cfg), draw[: cfg.rows]), Digits(self.info(cfg), draw[cfg.rows :])
        return PoolTrain(train.info, train), test

    def load_eval(self, cfg, *, progress=None):
        return self.load(cfg)[1]

    def batch_spec(self, cfg):
        row = ((cfg.length,), np.int32)
        return {"inputs": row, "labels": row, "puzzle_ids": ((), np.int32)}

    def score(self, cfg, answers, batch, counted):
        right = (answers == batch["labels"]).all(-1) & counted
        return {"count": counted.sum(dtype=jnp.float32), "reversed": right.sum(dtype=jnp.float32)}

    def finish(self, sums):
        return {"reversed": float(sums["reversed"] / sums["count"])} if sums["count"] else {}

    def local(self, cfg):
        return {"rows": 8}

    def read(self, cfg, text):
        rows = [line.strip() for line in text.splitlines() if line.strip()]
        if any(len(row) != cfg.length or not set(row) <= set("01234") for row in rows):
            raise InputError(f"a row has {cfg.length} digits from 0 to {DIGITS - 1}")
        return np.array([list(map(int, row)) for row in rows], np.int32)

    def check(self, cfg, inputs, answer):
        return () if (inputs[::-1] == answer).all() else ("it is not the row reversed",)

    def line(self, cfg, tokens):
        return "".join(map(str, tokens))

    def show(self, cfg, inputs, answer, *, color=False):
        return f"{self.line(cfg, inputs)} -> {self.line(cfg, answer)}"


REVERSAL = Reversal()


@dataclass(frozen=True)
class MixerConfig:
    vocab_size: int
    seq_len: int
    num_puzzle_ids: int = 1
    width: int = 16


def specs(cfg):
    size = cfg.seq_len * cfg.vocab_size
    return {
        "weights": {
            "mix": P.ParamSpec((size, cfg.width), ("embed", "mlp"), P.truncated_normal(size**-0.5)),
            "out": P.ParamSpec((cfg.width, size), ("mlp", "embed"), P.truncated_normal(cfg.width**-0.5), "head"),
        },
        "rows": P.ParamSpec((P.table_rows(cfg.num_puzzle_ids), cfg.width), ("puzzles", None), P.constant(0.0), "rows"),
    }


def _logits(params, cfg, batch):
    x = jax.nn.one_hot(batch["inputs"], cfg.vocab_size).reshape(len(batch["inputs"]), -1)
    hidden = jnp.dot(x, params["weights"]["mix"]) + P.look_up(params["rows"], batch["puzzle_ids"])
    return jnp.dot(hidden, params["weights"]["out"]).reshape(*batch["inputs"].shape, cfg.vocab_size)


def loss(params, cfg, carry, batch, noise, token_loss):
    logits = _logits(params, cfg, batch)
    total = optax.softmax_cross_entropy_with_integer_labels(logits, batch["labels"]).mean(-1).sum()
    answers = logits.argmax(-1).astype(jnp.int32)
    return total, carry, {}, Rows(answers, batch, jnp.ones(len(answers), bool), {"rows": batch["puzzle_ids"]})


def think(params, cfg, batch, num_steps=0):
    answers = _logits(params, cfg, batch).argmax(-1).astype(jnp.int32)
    return answers[None], jnp.full((1, len(answers)), jnp.inf)


def evaluate(params, cfg, batch, counted, score, num_steps=0):
    return score(think(params, cfg, batch)[0][0], batch, counted)


# A family is a module, or anything else with these names.
mixer = types.SimpleNamespace(
    Config=MixerConfig,
    LOCAL={"width": 8},
    specs=specs,
    carry_specs=lambda cfg, batch_size: (),
    noise=lambda cfg, key, batch_size, exploration: (),
    loss=loss,
    think=think,
    evaluate=evaluate,
    finish=lambda sums, count, sequences=0: {},
    flops=lambda cfg: (6 * 2 * cfg.seq_len * cfg.vocab_size * cfg.width, 4 * cfg.seq_len * cfg.vocab_size * cfg.width),
    activation_bytes=lambda cfg, rows: 4 * rows * (cfg.width + 2 * cfg.seq_len * cfg.vocab_size),
)
