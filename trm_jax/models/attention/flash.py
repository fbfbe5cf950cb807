"""Attention on a GPU that keeps the scores on the chip: Pallas Triton kernels, forward and backward (arXiv 2307.08691).

A program owns a block of rows of one head and goes through the blocks of the other side; where one block holds the
whole sequence there is no loop, and one kernel makes all three gradients. Nothing is padded in memory: a block reaches
past the end of its array, and loads and stores are masked.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from trm_jax.models import target
from trm_jax.models.attention.dropout import dropping

_LOG2E = math.log2(math.e)  # a GPU has an instruction for 2**x
_UNSEEN = -1e30  # as a score: finite, since a block may hold nothing that a row sees
_BLOCK_BYTES = 16384  # of a block of q, k or v


def flash(
    q, k, v, *, causal: bool, scale: float, segments: jax.Array | None = None, words=None, rate: float = 0.0
) -> jax.Array:
    """As `trm_jax.models.attention.attention`; words: of `dropout.words`, for dropout at this rate.

    Anywhere but on a GPU the kernels are interpreted, slowly.
    """
    return _attend(q, k, v, segments, None if words is None else tuple(words), causal, scale, rate)


def _padded(n: int) -> int:
    return max(16, pl.next_power_of_2(n))  # Triton's arrays are powers of two; tensor cores take no fewer than 16


def _dot(x, y, contract_x: int, contract_y: int):
    precision = lax.Precision.HIGHEST if x.dtype == jnp.float32 else None
    dims = (((contract_x,), (contract_y,)), ((), ()))
    return lax.dot_general(x, y, dims, precision=precision, preferred_element_type=jnp.float32)


@dataclass(frozen=True)
class _Plan:
    """What a program does of a head [T, K]: it owns `own` rows and goes through the others, `other` at a time."""

    length: int
    head: int
    own: int
    other: int
    causal: bool
    scale: float
    rate: float  # of dropout

    @classmethod
    def of(cls, q, causal: bool, scale: float, rate: float) -> _Plan:
        length, head = q.shape[1], q.shape[3]
        most = min(128, max(16, _BLOCK_BYTES // (_padded(head) * q.dtype.itemsize)))
        own, other = (_padded(length),) * 2 if length <= most else (max(16, most // 2),) * 2
        return cls(length, head, own, other, causal, scale, rate)

    @property
    def one_block(self) -> bool:
        return self.own >= self.length

    @property
    def num_blocks(self) -> int:
        return pl.cdiv(self.length, self.own)

    def mine(self) -> _Rows:
        return _Rows(self, 0 if self.one_block else pl.program_id(0) % self.num_blocks * self.own, self.own)

    def through(self, body, carry, *, keys: bool):
        """`carry` after body(rows, carry) for all blocks of keys, or of queries, that a program has to do with."""
        if self.one_block:
            return body(_Rows(self, 0, self.other), carry)
        first, last, start = 0, pl.cdiv(self.length, self.other), self.mine().start
        if self.causal and keys:
            last = jnp.minimum(last, (start + self.own) // self.other)
        elif self.causal:
            first = start // self.other
        return lax.fori_loop(first, last, lambda i, x: body(_Rows(self, i * self.other, self.other), x), carry)


@dataclass(frozen=True)
class _Rows:
    """Rows [start, start + size) of a head; past its end they are loaded as 0 and not stored."""

    plan: _Plan
    start: int | jax.Array
    size: int

    @property
    def positions(self) -> jax.Array:
        return self.start + jnp.arange(self.size, dtype=jnp.int32)

    def _in(self, ref):
        rows, inside = pl.ds(self.start, self.size), self.positions < self.plan.length
        if len(ref.shape) == 1:
            return ref.at[rows], inside
        columns = jnp.arange(ref.shape[1], dtype=jnp.int32) < self.plan.head
        return ref.at[rows, :], inside[:, None] & columns[None, :]

    def load(self, ref) -> jax.Array:
        """These rows of a ref [T] or [T, K]."""
        part, mask = self._in(ref)
        return triton.load(part, mask=mask, other=0)

    def store(self, ref, x) -> None:
        part, mask = self._in(ref)
        triton.store(part, x.astype(ref.dtype), mask=mask)


def _scores(plan: _Plan, q, k, of_q: _Rows, of_k: _Rows, segments):
    """Scores [Q, K] of a block of queries and one of keys, as powers of two."""
    at_q, at_k = of_q.positions[:, None], of_k.positions[None, :]
    seen = at_k < plan.length
    if plan.causal:
        seen = seen & (at_q >= at_k)
    if segments is not None:
        seen = seen & (of_q.load(segments)[:, None] == of_k.load(segments)[None, :])
    return jnp.where(seen, _dot(q, k, 1, 1) * (plan.scale * _LOG2E), _UNSEEN)


def _dropping(plan: _Plan, of_q: _Rows, of_k: _Rows, words):
    """What drops of weights [Q, K] of a block of queries and one of keys."""
    return dropping(words and (of_q.load(words[0]), of_k.load(words[1])), plan.rate)


def _forward_kernel(plan: _Plan, q_ref, k_ref, v_ref, segments, words, out_ref, lse_ref):
    mine = plan.mine()
    q = mine.load(q_ref)

    def body(theirs, carry):
        out, top, total = carry
        scores = _scores(plan, q, theirs.load(k_ref), mine, theirs, segments)
        new_top = jnp.maximum(top, scores.max(1))
        weights, shrink = jnp.exp2(scores - new_top[:, None]), jnp.exp2(top - new_top)
        kept = _dropping(plan, mine, theirs, words)(weights)  # the total is of all: softmax comes first
        out = out * shrink[:, None] + _dot(kept.astype(q.dtype), theirs.load(v_ref), 1, 0)
        return out, new_top, total * shrink + weights.sum(1)

    no_rows = jnp.zeros(plan.own, jnp.float32)
    start = jnp.zeros(q.shape, jnp.float32), no_rows + _UNSEEN, no_rows
    out, top, total = plan.through(body, start, keys=True)
    mine.store(out_ref, out / total[:, None])
    mine.store(lse_ref, top + jnp.log2(total))


def _backward_kernel(plan: _Plan, q_ref, k_ref, v_ref, g_ref, out_ref, lse_ref, segments, words, *grad_refs):
    """Gradients of the own block of queries (one), of keys and values (two), or of all three where it is the only one.

    The weights are computed again, and so is which of them were dropped.
    """
    mine = plan.mine()
    zeros = jnp.zeros((plan.own, q_ref.shape[1]), jnp.float32)

    def queries(rows):
        g, out = rows.load(g_ref), rows.load(out_ref)
        mean = (g.astype(jnp.float32) * out.astype(jnp.float32)).sum(1)
        return rows, rows.load(q_ref), g, rows.load(lse_ref)[:, None], mean[:, None]

    def keys(rows):
        return rows, rows.load(k_ref), rows.load(v_ref)

    def grads(of_q, q, g, lse, mean, of_k, k, v):
        """(weights that met v, gradient of q @ k.T), both [Q, K]."""
        drop = _dropping(plan, of_q, of_k, words)
        weights = jnp.exp2(_scores(plan, q, k, of_q, of_k, segments) - lse)
        g_scores = weights * (drop(_dot(g, v, 1, 1)) - mean) * plan.scale
        return drop(weights).astype(q.dtype), g_scores.astype(q.dtype)

    if len(grad_refs) == 1:
        here = queries(mine)

        def body(theirs, carry):
            there = keys(theirs)
            return [carry[0] + _dot(grads(*here, *there)[1], there[1], 1, 0)]
    else:
        here = keys(mine)

        def body(theirs, carry):
            _, q, g, *_ = there = queries(theirs)
            weights, g_scores = grads(*there, *here)
            of_q = [_dot(g_scores, here[1], 1, 0)] * plan.one_block
            return [*of_q, carry[-2] + _dot(g_scores, q, 0, 0), carry[-1] + _dot(weights, g, 0, 0)]

    found = plan.through(body, [zeros] * len(grad_refs), keys=len(grad_refs) == 1)
    for ref, grad in zip(grad_refs, found, strict=True):
        mine.store(ref, grad)


def _call(kernel, plan: _Plan, arrays, segments, words, outputs, name: str):
    """Run `kernel` for every block of every head.

    arrays, outputs: [B, T, H, K] or [B, H, T]; segments [B, T] and words, two of [B, H, T], or None.
    """
    batch, _, heads, head = arrays[0].shape
    rows = plan.num_blocks * plan.own

    # The blocks of a head follow one another: they find its keys and values in the cache.
    def spec(x):
        row, head_of = lambda n: n // (heads * plan.num_blocks), lambda n: n // plan.num_blocks % heads
        return {
            2: pl.BlockSpec((None, rows), lambda n: (row(n), 0)),
            3: pl.BlockSpec((None, None, rows), lambda n: (row(n), head_of(n), 0)),
            4: pl.BlockSpec((None, rows, None, _padded(head)), lambda n: (row(n), 0, head_of(n), 0)),
        }[x.ndim]

    inputs = (*arrays, segments, words)
    return pl.pallas_call(
        partial(kernel, plan),
        grid=(batch * heads * plan.num_blocks,),
        in_specs=jax.tree.map(spec, inputs),
        out_specs=[spec(x) for x in outputs],
        out_shape=outputs,
        interpret=target.platform() != "gpu",
        # One stage: with two, loads ahead of a loop's products, an H200 gave wrong gradients of v.
        compiler_params=triton.CompilerParams(num_warps=8 if plan.own == 128 else 4, num_stages=1),
        name=name,
    )(*inputs)


@partial(jax.custom_vjp, nondiff_argnums=(5, 6, 7))
def _attend(q, k, v, segments, words, causal, scale, rate):
    return _attend_fwd(q, k, v, segments, words, causal, scale, rate)[0]


def _attend_fwd(q, k, v, segments, words, causal, scale, rate):
    batch, length, heads, _ = q.shape
    plan = _Plan.of(q, causal, scale, rate)
    outputs = [jax.ShapeDtypeStruct(q.shape, q.dtype), jax.ShapeDtypeStruct((batch, heads, length), jnp.float32)]
    out, lse = _call(_forward_kernel, plan, (q, k, v), segments, words, outputs, "flash_forward")
    return out, (q, k, v, segments, words, out, lse)


def _attend_bwd(causal, scale, rate, kept, g):
    q, k, v, segments, words, out, lse = kept
    plan = _Plan.of(q, causal, scale, rate)
    of = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (q, k, v)]
    grads = []
    for part in [of] if plan.one_block else [of[:1], of[1:]]:
        grads += _call(_backward_kernel, plan, (q, k, v, g, out, lse), segments, words, part, "flash_backward")
    return *grads, None, None


_attend.defvjp(_attend_fwd, _attend_bwd)
