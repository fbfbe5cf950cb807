"""Families: model architectures behind one interface. A new one is one module here, in which these functions stand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
from flax import struct

from trm_jax import named

# Setting model.family -> the module; imported when it is asked for.
BUILT_IN = {
    "trm": "trm_jax.models:trm",
    "arc_transformer": "trm_jax.models:arc_transformer",
    "arc_transformer_each": "trm_jax.models:arc_transformer_each",
    "hrm": "trm_jax.models.hrm:FAMILY",
    "singlez": "trm_jax.models.singlez:FAMILY",
    "hier6": "trm_jax.models.hier6:FAMILY",
    "transformer": "trm_jax.models.transformer:FAMILY",
    "urm": "trm_jax.models.urm:FAMILY",
    "eqr": "trm_jax.models.eqr:FAMILY",
    "symbols": "trm_jax.models.symbols:FAMILY",
    "hybrid": "trm_jax.models.hybrid:FAMILY",
}


@struct.dataclass
class Rows:
    """What a training step leaves of each row of its batch, to be scored and to find its rows of tables."""

    answers: jax.Array  # [B, S] int32 tokens
    batch: dict  # the rows that they answer; not those handed in where a carry kept its own
    counted: jax.Array  # [B] bool: which are scored (those that ended with this step)
    ids: dict  # name of a table in the parameters -> [B] int32, the rows that were looked up


class Family(Protocol):
    """One model architecture: pure functions of a frozen config, what training, evaluation and planning ask for.

    Parameters are a dict: "weights" are trained by gradient; a top-level array of kind "rows" is a table with a sparse
    optimiser, read by `params.look_up`; all others are "frozen". B = batch.
    """

    Config: type  # frozen dataclass: vocab_size, seq_len, num_puzzle_ids of the task, and the settings of `model`
    LOCAL: Mapping[str, Any]  # settings of section `model` for a run of seconds

    def specs(self, cfg: Any) -> dict:
        """Tree of `ParamSpec`."""

    def carry_specs(self, cfg: Any, batch_size: int) -> Any:
        """Tree of `ParamSpec` of what lives across steps, the batch axis first; () for a model without a carry."""

    def noise(self, cfg: Any, key: jax.Array, batch_size: int, exploration: Any) -> Any:
        """The random part of a training step, drawn for each row by itself: a tree of [B, ...]; () for none."""

    def loss(self, params: dict, cfg: Any, carry: Any, batch: dict, noise: Any, token_loss: str) -> tuple:
        """(loss, carry, sums, rows) of one training step: the loss summed over rows, figures to be added up, `Rows`."""

    def evaluate(
        self, params: dict, cfg: Any, batch: dict, counted: jax.Array, score: Callable, num_steps: int = 0
    ) -> dict:
        """Sums over the rows where `counted` [B] holds, those of score(answers, batch, counted) among them.

        "rows": {"answers" [B, S], "q_halt" [B]}, for a task that collects them; without it no such task is served.
        """

    def think(self, params: dict, cfg: Any, batch: dict, num_steps: int = 0) -> tuple[jax.Array, jax.Array]:
        """(answers [steps, B, S] int32, q_halt [steps, B]) after each step; a model that answers at once has one."""

    def finish(self, sums: Mapping, count: float, sequences: float = 0) -> dict:
        """On the host: figures of a record from fetched sums over `count` scored rows and `sequences` trained ones."""

    def flops(self, cfg: Any) -> tuple[int, int]:
        """Analytic matmul FLOPs of one row: (one training step, one evaluation)."""

    def activation_bytes(self, cfg: Any, rows: int) -> int:
        """Estimate of what the backward pass of `rows` rows keeps and makes."""

    # Optional. Notes on a run's `train.config.RunConfig`, before it starts: warnings(cfg) -> lines.
    # Optional, of a family that trains a model for each puzzle id, all side by side: of_task(params, task) -> those of
    # one. Every array of its parameters has a first axis of the models, and gradients are clipped model by model.


def get(name: str) -> Family:
    """The family called `name`, or the one at "module:ATTRIBUTE", which need not be of this package."""
    return named.load(name, BUILT_IN, "model.family")
