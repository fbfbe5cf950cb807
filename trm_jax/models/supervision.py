"""Deep supervision with adaptive halting: all that a tiny recursive reasoner is besides its recursion.

A row lives in a carry for several training steps: one supervision step thinks about it once more, says an answer and
how sure it is, and is trained; the latents go on without a gradient. A finished row makes room for a new one.

B = batch, S = puzzle tokens, P = prefix tokens of the puzzle embedding, T = P + S, D = hidden size, V = vocabulary.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jax import lax

from trm_jax.losses import IGNORE, act_loss
from trm_jax.models import params as P
from trm_jax.models import trm_cost
from trm_jax.models.family import Rows
from trm_jax.models.layers import embed_tokens, inverse_sqrt, linear
from trm_jax.models.row_keys import fold


@struct.dataclass
class Output:
    """What one supervision step says."""

    logits: jax.Array  # [B, S, V] in the compute dtype
    q_halt: jax.Array  # [B] float32
    q_continue: jax.Array  # [B] float32 (kept for the official weights; the loss uses it with `q_continue` only)


def carry_type(*latents: str) -> type:
    """The carry of a family with such latents [B, T, D]; `trm_jax.models.trm.Carry` says what the others are."""
    names = (*latents, "steps", "halted", "inputs", "labels", "puzzle_ids")
    return struct.dataclass(type("Carry", (), {"__annotations__": dict.fromkeys(names, jax.Array)}))


def refill(carry: Any, batch: Mapping, starts: Mapping[str, jax.Array]) -> Any:
    """Where a row has halted: latents as they start, no steps done, and the batch's row; elsewhere unchanged.

    starts: the latents by name, [D] or [B, T, D].
    """

    def where_halted(new, old):
        return jnp.where(carry.halted.reshape((-1,) + (1,) * (old.ndim - 1)), new, old)

    latents = {name: (start, getattr(carry, name)) for name, start in starts.items()}
    return carry.replace(
        **{name: where_halted(start.astype(old.dtype), old) for name, (start, old) in latents.items()},
        steps=where_halted(0, carry.steps),
        **{name: where_halted(batch[name], getattr(carry, name)) for name in ("inputs", "labels", "puzzle_ids")},
    )


def embed(weights: dict, puzzle_rows: jax.Array | None, cfg: Any, inputs: jax.Array) -> jax.Array:
    """Input embedding [B, T, D] of tokens [B, S] behind the puzzle's prefix; puzzle_rows [B, ndim]."""
    D, dtype = cfg.hidden_size, cfg.compute_dtype
    # Looked up before it is cast, so that the gradients of the rows of one token are summed in float32.
    x = embed_tokens(weights["embed_tokens"], inputs).astype(dtype)
    if cfg.puzzle_emb_len:
        room = cfg.puzzle_emb_len * D - cfg.puzzle_emb_ndim
        prefix = jnp.pad(puzzle_rows.astype(dtype), ((0, 0), (0, room)))
        x = jnp.concatenate([prefix.reshape(-1, cfg.puzzle_emb_len, D), x], axis=1)
    if cfg.pos_encodings == "learned":
        x = math.sqrt(0.5) * (x + weights["embed_pos"].astype(dtype))
    return math.sqrt(D) * x


def advance(cfg: Any, carry: Any, latents: Mapping[str, jax.Array], q, min_steps: jax.Array | int, *, train: bool):
    """Close a supervision step: latents detached, counters on, and which rows are finished.

    In evaluation a row always runs `halt_max_steps` steps. In training it also ends where q [B] > 0, but not before
    `min_steps` [B].
    """
    steps = carry.steps + 1
    halted = steps >= cfg.halt_max_steps
    if train and cfg.halt_max_steps > 1:
        halted = (halted | (q > 0)) & (steps >= min_steps)
    return carry.replace(**lax.stop_gradient(dict(latents)), steps=steps, halted=halted)


def step_weights(cfg: Any) -> jax.Array:
    """w_t of supervision steps t = 1, 2, ...: proportional to step_weight^(t - 1), 1 on average; [halt_max_steps]."""
    weights = cfg.step_weight ** np.arange(cfg.halt_max_steps)
    return jnp.asarray(weights / weights.mean(), jnp.float32)


class Supervision:
    """A `trm_jax.models.family.Family` of models that think under deep supervision.

    One of them says its `Config` (a `TRMConfig` or what is derived from it), its latents, its nets and its recursion.
    """

    Config: type
    Carry: type
    LATENTS: Mapping[str, str]  # latent -> its fixed start in "buffers", "" for none; the heads read the first
    STACKS: Mapping[str, tuple[str, str]]  # net -> (its name in official weights, the setting that says its layers)
    LOCAL: Mapping[str, Any]
    RANDOM: bool = False  # evaluation draws numbers: then `step` takes rollout=, and each number draws others

    def nets(self, cfg: Any) -> dict:
        """The declarations of the nets, by the names of `STACKS`."""
        raise NotImplementedError

    def recurse(self, weights: dict, cfg: Any, emb: jax.Array, latents: tuple, keys: jax.Array | None) -> tuple:
        """The latents after one supervision step; all are [B, T, D]. keys [B, 2]: for a family that draws numbers."""
        raise NotImplementedError

    def starts(self, params: dict, cfg: Any, keys: jax.Array | None) -> dict[str, jax.Array]:
        """Where the latents of a new row begin, [D] or [B, T, D]."""
        return {latent: params["buffers"][start] for latent, start in self.LATENTS.items()}

    def margin(self, cfg: Any, out: Output) -> jax.Array:
        """[B]: in training a row ends where it is positive."""
        return out.q_halt - out.q_continue if cfg.q_continue else out.q_halt

    def specs(self, cfg: Any) -> dict:
        """The declaration of every array of the model: {"weights", "buffers", "puzzle_emb" unless its width is 0}."""
        D, V = cfg.hidden_size, cfg.vocab_size
        by_width = P.truncated_normal(inverse_sqrt(D))
        weights = {
            "embed_tokens": P.ParamSpec((V, D), ("vocab", "embed"), by_width, "embedding"),
            **self.nets(cfg),
            "lm_head": P.ParamSpec((D, V), ("embed", "vocab"), by_width, "head"),
            # q starts at "do not halt": zero weights, bias -5.
            "q_head": {
                "kernel": P.ParamSpec((D, 2), ("embed", None), P.constant(0.0), "head"),
                "bias": P.ParamSpec((2,), (None,), P.constant(-5.0), "vector"),
            },
        }
        if cfg.pos_encodings == "learned":
            weights["embed_pos"] = P.ParamSpec((cfg.total_len, D), ("tokens", "embed"), by_width, "embedding")
        latent = P.ParamSpec((D,), (None,), P.truncated_normal(1.0), "frozen", cfg.compute_dtype)
        table = (P.table_rows(cfg.num_puzzle_ids), cfg.puzzle_emb_ndim)
        specs = {"weights": weights, "buffers": dict.fromkeys(filter(None, self.LATENTS.values()), latent)}
        if cfg.puzzle_emb_ndim:
            specs["puzzle_emb"] = P.ParamSpec(table, ("puzzles", None), P.constant(0.0), "rows")
        return specs

    def init(self, key: jax.Array, cfg: Any) -> dict:
        """Random initial parameters, as `specs` declares them."""
        return P.init(self.specs(cfg), key)

    def carry_specs(self, cfg: Any, batch_size: int) -> Any:
        """The declaration of the carry; at first every row is halted, so that the first step takes the whole batch."""

        def array(*shape, dtype=jnp.int32, first=0):
            axes = ("batch", *[None] * len(shape))
            return P.ParamSpec((batch_size, *shape), axes, P.constant(first), "frozen", dtype)

        latent = array(cfg.total_len, cfg.hidden_size, dtype=cfg.compute_dtype)
        tokens, halted = array(cfg.seq_len), array(dtype=bool, first=True)
        others = {"steps": array(), "halted": halted, "inputs": tokens, "labels": tokens, "puzzle_ids": array()}
        return self.Carry(**dict.fromkeys(self.LATENTS, latent), **others)

    def initial_carry(self, cfg: Any, batch_size: int) -> Any:
        """A carry in which every row is halted."""
        return P.init(self.carry_specs(cfg, batch_size), jax.random.key(0))

    def forward(self, weights: dict, puzzle_rows: jax.Array | None, cfg: Any, inputs, *latents, keys=None) -> tuple:
        """One supervision step on given latents: -> (*latents, Output). puzzle_rows [B, ndim], inputs [B, S]."""
        with jax.named_scope("embed"):
            emb = embed(weights, puzzle_rows, cfg, inputs)
        latents = self.recurse(weights, cfg, emb, latents, keys)
        answer = latents[0]
        with jax.named_scope("head"):
            logits = linear(answer[:, cfg.puzzle_emb_len :], weights["lm_head"])
            q = linear(answer[:, 0].astype(jnp.float32), weights["q_head"]["kernel"]) + weights["q_head"]["bias"]
        return *latents, Output(logits, q[:, 0], q[:, 1])

    def noise(self, cfg: Any, key: jax.Array, batch_size: int, exploration: float | jax.Array | None = None) -> dict:
        """The random part of a training step, as `step` takes it.

        min_steps [B] int32: the least number of supervision steps of each row, with probability `exploration` (default:
        the config's) drawn from [2, halt_max_steps], else 0. A row's draw does not depend on the other rows, so a batch
        can be computed in parts. late_steps [B] int32, with late starts only: one draw for the whole batch.
        """
        exploration = cfg.halt_exploration_prob if exploration is None else exploration
        explore_key, length_key = jax.random.split(key)
        explore = jax.random.uniform(explore_key, (batch_size,)) < exploration
        at_least = jax.random.randint(length_key, (batch_size,), 2, max(cfg.halt_max_steps, 2) + 1)
        noise = {"min_steps": jnp.where(explore, at_least, 0)}
        if cfg.late_start_prob:
            # 3: the keys above are those of 0 and 1, and EqR has 2.
            late_key, length_key = jax.random.split(jax.random.fold_in(key, 3))
            length = jax.random.choice(length_key, jnp.array(cfg.late_starts))
            late = jnp.where(jax.random.uniform(late_key) < cfg.late_start_prob, length, 0)
            noise["late_steps"] = jnp.broadcast_to(late, batch_size)
        return noise

    def say(self, params: dict, cfg: Any, carry: Any, keys: jax.Array | None = None) -> tuple[dict, Output]:
        """(latents by name, Output) of one supervision step on the rows of the carry."""
        rows = P.look_up(params["puzzle_emb"], carry.puzzle_ids) if cfg.puzzle_emb_ndim else None
        latents = (getattr(carry, name) for name in self.LATENTS)
        *latents, out = self.forward(params["weights"], rows, cfg, carry.inputs, *latents, keys=keys)
        return dict(zip(self.LATENTS, latents, strict=True)), out

    def think_ahead(self, params: dict, cfg: Any, carry: Any, late_steps: jax.Array, keys: jax.Array | None) -> Any:
        """The carry with its latents so many supervision steps on, without gradient; late_steps [B]: all the same."""
        frozen = lax.stop_gradient(params)

        def one(so_far):
            number, latents = so_far
            of_step = keys if keys is None else fold(keys, 2**16 + number)  # no call has that number
            return number + 1, self.say(frozen, cfg, carry.replace(**latents), of_step)[0]

        latents = {name: getattr(carry, name) for name in self.LATENTS}
        _, latents = lax.while_loop(lambda so_far: so_far[0] < late_steps[0], one, (0, latents))
        return carry.replace(**latents)

    def step(
        self,
        params: dict,
        cfg: Any,
        carry: Any,
        batch: dict,
        min_steps: jax.Array | int = 0,
        *,
        train: bool = False,
        keys: jax.Array | None = None,
        late_steps: jax.Array | None = None,
        disturb: Callable | None = None,
    ) -> tuple[Any, Output]:
        """One supervision step: refill halted rows from `batch`, think, say, decide who has finished.

        batch: {"inputs" [B, S] int32, "labels" [B, S] int32, "puzzle_ids" [B] int32}. A loss takes its labels from
        the carry that comes back, not from `batch`: rows that had not halted kept their own. min_steps: of `noise`, in
        training with exploration. keys [B, 2]: for a family that draws numbers. late_steps: of `noise`, the steps that
        the rows think ahead of this one, uncounted. disturb(carry): the carry to think with, once it is refilled.
        """
        chex.assert_shape([batch["inputs"], batch["labels"]], (carry.steps.shape[0], cfg.seq_len))
        with jax.named_scope("refill"):
            carry = refill(carry, batch, self.starts(params, cfg, keys))
        if late_steps is not None:
            carry = self.think_ahead(params, cfg, carry, late_steps, keys)
        if disturb:
            carry = disturb(carry)
        latents, out = self.say(params, cfg, carry, keys)
        return advance(cfg, carry, latents, self.margin(cfg, out), min_steps, train=train), out

    def loss(self, params: dict, cfg: Any, carry: Any, batch: dict, noise: Any, token_loss: str) -> tuple:
        """(loss, carry, sums, rows) of one supervision step, as `trm_jax.models.family.Family` says.

        The loss is summed over the sequences; the sums are over the sequences that ended with this step.
        """
        carry, out = self.step(params, cfg, carry, batch, train=True, **noise)
        weights = None if cfg.step_weight == 1 else step_weights(cfg)[carry.steps - 1]
        total, parts = act_loss(out.logits, out.q_halt, carry.labels, token_loss, weights)
        if cfg.q_continue:
            target = self.continue_target(params, cfg, carry)
            losses = optax.sigmoid_binary_cross_entropy(out.q_continue, target)
            parts["q_continue_loss"] = jnp.sum(losses if weights is None else losses * weights)
            total += 0.5 * parts["q_continue_loss"]
        answers = jnp.argmax(out.logits, -1)
        sums = {
            **parts,
            **_halting_sums(answers, out.q_halt, carry.steps, carry.labels, carry.halted),
            "halt_steps": _histogram(carry.steps, carry.halted, cfg.halt_max_steps),
        }
        working_on = {"inputs": carry.inputs, "labels": carry.labels, "puzzle_ids": carry.puzzle_ids}
        tables = {"puzzle_emb": carry.puzzle_ids} if cfg.puzzle_emb_ndim else {}
        return total, carry, sums, Rows(answers, working_on, carry.halted, tables)

    def continue_target(self, params: dict, cfg: Any, carry: Any) -> jax.Array:
        """What q_continue is trained towards, [B]: the better of halting and going on, as the next step would say."""
        _, following = self.say(lax.stop_gradient(params), cfg, carry)
        best = jnp.maximum(following.q_halt, following.q_continue)
        return jax.nn.sigmoid(jnp.where(carry.steps >= cfg.halt_max_steps, following.q_halt, best))

    def think(self, params: dict, cfg: Any, batch: dict, num_steps: int = 0) -> tuple[jax.Array, jax.Array]:
        """Answers [num_steps, B, S] int32 and q_halt [num_steps, B] after each supervision step from a fresh start.

        No row stops early: the reference evaluates every sequence at exactly halt_max_steps steps, which 0 stands for.
        """
        num_steps = num_steps or cfg.halt_max_steps
        cfg = dataclasses.replace(cfg, halt_max_steps=num_steps)

        def one(carry, _):
            carry, out = self.step(params, cfg, carry, batch)
            return carry, (jnp.argmax(out.logits, -1).astype(jnp.int32), out.q_halt)

        _, thoughts = lax.scan(one, self.initial_carry(cfg, batch["inputs"].shape[0]), length=num_steps)
        return thoughts

    def evaluate(
        self, params: dict, cfg: Any, batch: dict, counted: jax.Array, score: Callable, num_steps: int = 0
    ) -> dict:
        """Sums of scores at `num_steps` steps over the rows where `counted` [B] holds; score: of `Task.score`.

        Besides the reference's scores: those of rows that stop at their first q_halt > 0 (our extension), as
        "early_exit_", and how many rows would stop at each step, "halt_steps" [num_steps] (the last one counts those
        that never would).
        """
        answers, q_halt = self.think(params, cfg, batch, num_steps)
        num_steps = answers.shape[0]
        first = jnp.argmax((q_halt > 0).at[-1].set(True), axis=0)
        scores = score(answers[-1], batch, counted)
        early = score(answers[first, jnp.arange(first.size)], batch, counted)
        steps = jnp.full(counted.shape, num_steps)
        return {
            "rows": self.of_steps(answers, q_halt),
            **scores,
            **{f"early_exit_{name}": value for name, value in early.items() if name != "count"},
            **_halting_sums(answers[-1], q_halt[-1], steps, batch["labels"], counted),
            "early_exit_steps": jnp.sum(jnp.where(counted, first + 1, 0), dtype=jnp.float32),
            "halt_steps": _histogram(first + 1, counted, num_steps),
        }

    def of_steps(self, answers: jax.Array, q_halt: jax.Array) -> dict:
        """What a task that collects answers gets of an evaluation's [steps, B, S] and [steps, B]: the last step's."""
        return {"answers": answers[-1], "q_halt": q_halt[-1]}

    def finish(self, sums: Mapping, count: float, sequences: float = 0) -> dict:
        """Fetched sums as the figures of a record: losses per sequence trained, scores per sequence counted."""
        losses = [name for name in ("lm_loss", "q_loss", "q_continue_loss") if name in sums]
        record = {name: float(sums[name] / sequences) for name in losses if sequences}
        means = [name for name in ("q_halt_accuracy", "steps", "early_exit_steps") if name in sums]
        if count:
            record |= {name: float(sums[name] / count) for name in means}
            record["halt_steps"] = [int(ended) for ended in sums["halt_steps"]]
        return record

    flops = staticmethod(trm_cost.flops)
    activation_bytes = staticmethod(trm_cost.activation_bytes)


def _halting_sums(answers, q_halt, steps, labels, counted) -> dict:
    """ "q_halt_accuracy": where q_halt >= 0 agrees with "every valid token is right"; "steps": supervision steps."""
    valid = labels != IGNORE
    exact = ((answers == labels) | ~valid).all(-1)
    counted = counted & valid.any(-1)
    sums = {"q_halt_accuracy": (q_halt >= 0) == exact, "steps": steps}
    return {name: jnp.sum(jnp.where(counted, x, 0).astype(jnp.float32)) for name, x in sums.items()}


def _histogram(steps, counted, halt_max: int) -> jax.Array:
    """How many of the sequences where `counted` [B] holds ended at step 1, 2, ... halt_max: float32 [halt_max]."""
    ends = (steps[:, None] == jnp.arange(1, halt_max + 1)) & counted[:, None]
    return ends.sum(0, dtype=jnp.float32)
