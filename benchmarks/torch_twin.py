"""TRM and its training step in plain PyTorch: the peer that `trm_jax` is timed and checked against.

Nothing here is imported by the library. The model is an ordinary `nn.Module` under the official parameter
names, so official state dicts load into it; the step is forward, loss, backward, AdamATan2, sign-SGD on the
puzzle table, EMA. Weights stay in float32 and are cast to the compute dtype at each use, without autocast.
B = batch, S = puzzle tokens, P = prefix tokens, T = P + S, D = hidden size.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

OFFICIAL_PREFIX = "model.inner."
IGNORED_LABEL = -100


@dataclasses.dataclass(frozen=True)
class TwinConfig:
    """Shapes and halting rules, under the names of the official configuration."""

    vocab_size: int
    seq_len: int
    num_puzzle_identifiers: int = 1
    hidden_size: int = 512
    num_heads: int = 8
    expansion: float = 4.0
    L_layers: int = 2
    H_cycles: int = 3
    L_cycles: int = 6
    mlp_t: bool = True
    pos_encodings: str = "none"  # none | rope | learned
    rope_theta: float = 10_000.0
    rms_norm_eps: float = 1e-5
    puzzle_emb_ndim: int = 512
    puzzle_emb_len: int = 16
    halt_max_steps: int = 16
    halt_exploration_prob: float = 0.1
    forward_dtype: str = "float32"

    @classmethod
    def from_official(cls, settings: Mapping[str, Any]) -> TwinConfig:
        """The configuration in an official settings dictionary; keys that do not shape the model are left."""
        return cls(**{field.name: settings[field.name] for field in dataclasses.fields(cls) if field.name in settings})

    @property
    def dtype(self) -> torch.dtype:
        return getattr(torch, self.forward_dtype)

    @property
    def tokens(self) -> int:
        return self.puzzle_emb_len + self.seq_len


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """Rates of the two optimisers and of the EMA; the rates warm up linearly and then stay constant."""

    lr: float = 1e-4
    weight_decay: float = 1.0
    beta1: float = 0.9
    beta2: float = 0.95
    puzzle_lr: float = 1e-4
    puzzle_weight_decay: float = 1.0
    warmup_steps: int = 2000
    ema_rate: float = 0.999


class Carry(NamedTuple):
    """What lives across optimiser steps: latents [B, T, D], counters and flags [B], the rows being solved."""

    z_H: Tensor
    z_L: Tensor
    steps: Tensor
    halted: Tensor
    data: dict[str, Tensor]


def rms_norm(x: Tensor, eps: float) -> Tensor:
    """Divide by the root mean square over the last axis, in float32, without a learned scale."""
    y = x.float()
    return (y * torch.rsqrt(y.square().mean(-1, keepdim=True) + eps)).to(x.dtype)


def truncated_normal(*shape: int, std: float) -> Tensor:
    """Normal cut at two deviations, widened so that the standard deviation after the cut is `std`."""
    shrink = 0.8796256610342398  # standard deviation of a unit normal cut at +-2
    return nn.init.trunc_normal_(torch.empty(shape), std=std / shrink, a=-2 * std / shrink, b=2 * std / shrink)


class Linear(nn.Module):
    """`x @ weight.T + bias` in the dtype of x; weight [out, in]."""

    def __init__(self, features_in: int, features_out: int, bias: bool = False):
        super().__init__()
        self.weight = nn.Parameter(truncated_normal(features_out, features_in, std=features_in**-0.5))
        self.bias = nn.Parameter(torch.zeros(features_out)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.linear(x, self.weight.to(x.dtype), bias)


class SwiGLU(nn.Module):
    """`down(silu(gate) * up)` over the last axis."""

    def __init__(self, width: int, expansion: float):
        super().__init__()
        inner = -(-round(expansion * width * 2 / 3) // 256) * 256
        self.gate_up_proj = Linear(width, 2 * inner)
        self.down_proj = Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up_proj(x).chunk(2, dim=-1)
        return self.down_proj(F.silu(gate) * up)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions on x [B, T, heads, head_dim] by the rotate-half rule, in float32."""
    y = x.float()
    first, second = y.chunk(2, dim=-1)
    return (y * cos + torch.cat((-second, first), dim=-1) * sin).to(x.dtype)


class Attention(nn.Module):
    """Bidirectional multi-head attention with a fused qkv projection."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv_proj = Linear(width, 3 * width)
        self.o_proj = Linear(width, width)

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor] | None) -> Tensor:
        batch, tokens, width = x.shape
        q, k, v = self.qkv_proj(x).view(batch, tokens, 3, self.heads, width // self.heads).unbind(2)
        if rope is not None:
            q, k = rotate(q, *rope), rotate(k, *rope)
        out = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
        return self.o_proj(out.transpose(1, 2).reshape(batch, tokens, width))


class Block(nn.Module):
    """Post-norm block: attention, or a SwiGLU over the sequence axis (`mlp_t`), then a SwiGLU over D."""

    def __init__(self, config: TwinConfig):
        super().__init__()
        self.eps = config.rms_norm_eps
        if config.mlp_t:
            self.mlp_t = SwiGLU(config.tokens, config.expansion)
        else:
            self.self_attn = Attention(config.hidden_size, config.num_heads)
        self.mixes_by_mlp = config.mlp_t
        self.mlp = SwiGLU(config.hidden_size, config.expansion)

    def forward(self, h: Tensor, rope: tuple[Tensor, Tensor] | None) -> Tensor:
        if self.mixes_by_mlp:
            h = h.transpose(1, 2)
            h = rms_norm(h + self.mlp_t(h), self.eps).transpose(1, 2)
        else:
            h = rms_norm(h + self.self_attn(h, rope), self.eps)
        return rms_norm(h + self.mlp(h), self.eps)


class Net(nn.Module):
    """The one network that updates both latents."""

    def __init__(self, config: TwinConfig):
        super().__init__()
        self.layers = nn.ModuleList(Block(config) for _ in range(config.L_layers))

    def forward(self, h: Tensor, injection: Tensor, rope: tuple[Tensor, Tensor] | None) -> Tensor:
        h = h + injection
        for layer in self.layers:
            h = layer(h, rope)
        return h


class Table(nn.Module):
    """A lookup table trained with the other weights."""

    def __init__(self, rows: int, width: int):
        super().__init__()
        self.embedding_weight = nn.Parameter(truncated_normal(rows, width, std=width**-0.5))


class PuzzleTable(nn.Module):
    """One row per puzzle id, [ids, ndim]; a buffer, because its optimiser sees only the rows in use."""

    weights: Tensor

    def __init__(self, rows: int, width: int):
        super().__init__()
        self.register_buffer("weights", torch.zeros(rows, width))


class TRM(nn.Module):
    """One supervision step of the tiny recursive model: latents in, latents and predictions out."""

    H_init: Tensor
    L_init: Tensor

    def __init__(self, config: TwinConfig):
        super().__init__()
        self.config = config
        width = config.hidden_size
        self.embed_tokens = Table(config.vocab_size, width)
        if config.pos_encodings == "learned":
            self.embed_pos = Table(config.tokens, width)
        self.lm_head = Linear(width, config.vocab_size)
        self.q_head = Linear(width, 2, bias=True)
        nn.init.zeros_(self.q_head.weight)
        nn.init.constant_(self.q_head.bias, -5.0)
        self.puzzle_emb = PuzzleTable(config.num_puzzle_identifiers, config.puzzle_emb_ndim)
        self.register_buffer("H_init", truncated_normal(width, std=1.0))
        self.register_buffer("L_init", truncated_normal(width, std=1.0))
        self.L_level = Net(config)
        if config.pos_encodings == "rope":
            head_dim = width // config.num_heads
            frequencies = config.rope_theta ** (-torch.arange(0, head_dim, 2).float() / head_dim)
            angles = torch.outer(torch.arange(config.tokens).float(), frequencies).repeat(1, 2)[:, None]
            self.register_buffer("cos", angles.cos(), persistent=False)
            self.register_buffer("sin", angles.sin(), persistent=False)

    def load_official(self, state: Mapping[str, Any]) -> None:
        """Load arrays under official keys, with or without their `_orig_mod.` and `model.inner.` prefixes."""
        for prefix in ("_orig_mod.", OFFICIAL_PREFIX):
            state = {name.removeprefix(prefix): array for name, array in state.items()}
        self.load_state_dict({name: torch.tensor(array) for name, array in state.items()})

    def embed(self, inputs: Tensor, puzzle_rows: Tensor) -> Tensor:
        """Input embedding [B, T, D] of tokens [B, S] behind a prefix made of puzzle rows [B, ndim]."""
        config = self.config
        tokens = F.embedding(inputs, self.embed_tokens.embedding_weight.to(config.dtype))
        padding = config.puzzle_emb_len * config.hidden_size - config.puzzle_emb_ndim
        prefix = F.pad(puzzle_rows.to(config.dtype), (0, padding)).view(len(inputs), -1, config.hidden_size)
        embedding = torch.cat((prefix, tokens), dim=1)
        if config.pos_encodings == "learned":
            embedding = 0.707106781 * (embedding + self.embed_pos.embedding_weight.to(config.dtype))
        return math.sqrt(config.hidden_size) * embedding

    def forward(self, z_H: Tensor, z_L: Tensor, inputs: Tensor, puzzle_rows: Tensor):
        """Return z_H, z_L [B, T, D] (detached), logits [B, S, V] and the halting logit [B].

        Only the last of the H cycles is differentiated.
        """
        embedding = self.embed(inputs, puzzle_rows)
        with torch.no_grad():
            for _ in range(self.config.H_cycles - 1):
                z_H, z_L = self.cycle(z_H, z_L, embedding)
        z_H, z_L = self.cycle(z_H, z_L, embedding)
        logits = self.lm_head(z_H[:, self.config.puzzle_emb_len :])
        q_halt = self.q_head(z_H[:, 0]).float()[:, 0]
        return z_H.detach(), z_L.detach(), logits, q_halt

    def cycle(self, z_H: Tensor, z_L: Tensor, embedding: Tensor) -> tuple[Tensor, Tensor]:
        """`L_cycles` updates of the latent, then one of the answer."""
        rope = (self.cos, self.sin) if self.config.pos_encodings == "rope" else None
        for _ in range(self.config.L_cycles):
            z_L = self.L_level(z_L, z_H + embedding, rope)
        return self.L_level(z_H, z_L, rope), z_L

    def empty_carry(self, batch: Mapping[str, Tensor]) -> Carry:
        """The carry before the first step: every sequence halted, so that every row is replaced."""
        config, device = self.config, self.H_init.device
        rows = len(batch["inputs"])
        latent = torch.zeros(rows, config.tokens, config.hidden_size, dtype=config.dtype, device=device)
        return Carry(
            z_H=latent,
            z_L=latent,
            steps=torch.zeros(rows, dtype=torch.int32, device=device),
            halted=torch.ones(rows, dtype=torch.bool, device=device),
            data={name: torch.zeros_like(array) for name, array in batch.items()},
        )

    def refill(self, carry: Carry, batch: Mapping[str, Tensor]) -> Carry:
        """Where a sequence halted, start the new row from the initial latents; elsewhere keep the old row."""
        halted = carry.halted
        start = halted[:, None, None]
        return Carry(
            z_H=torch.where(start, self.H_init.to(carry.z_H.dtype), carry.z_H),
            z_L=torch.where(start, self.L_init.to(carry.z_L.dtype), carry.z_L),
            steps=torch.where(halted, 0, carry.steps),
            halted=halted,
            data={
                name: torch.where(halted.view(-1, *[1] * (old.ndim - 1)), batch[name], old)
                for name, old in carry.data.items()
            },
        )


def stablemax_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Stablemax cross-entropy [B, S] in float64 of logits [B, S, V], 0 where the label is ignored.

    s(x) = x + 1 for x >= 0 and 1 / (1 - x) below. The branch that is not chosen sees x = 0, so the gradient is
    finite for every logit, 1.0 included. In float64, as the reference: with the same order of operations the
    golden trajectories come out bit for bit.
    """
    x = logits.double()
    s = torch.where(x < 0, 1 / (1 - x.clamp(max=0)), x + 1)
    log_p = torch.log(s / s.sum(-1, keepdim=True))
    valid = labels != IGNORED_LABEL
    picked = log_p.gather(-1, torch.where(valid, labels, 0).long()[..., None])[..., 0]
    return torch.where(valid, -picked, 0.0)


def supervise(model: TRM, carry: Carry, puzzle_rows: Tensor) -> tuple[Tensor, dict[str, Tensor], Carry]:
    """Loss summed over the batch, measurements, and the carry after one supervision step (not yet halted)."""
    labels = carry.data["labels"]
    z_H, z_L, logits, q_halt = model(carry.z_H, carry.z_L, carry.data["inputs"], puzzle_rows)
    valid = labels != IGNORED_LABEL
    count = valid.sum(-1)
    exact = ((logits.argmax(-1) == labels) & valid).sum(-1) == count
    lm_loss = (stablemax_losses(logits, labels) / count.clamp(min=1)[:, None]).sum()
    q_loss = F.binary_cross_entropy_with_logits(q_halt, exact.float(), reduction="sum")
    measured = {"logits": logits.detach(), "q_halt": q_halt.detach(), "exact": exact}
    measured |= {"lm_loss": lm_loss.detach(), "q_halt_loss": q_loss.detach()}
    return lm_loss + 0.5 * q_loss, measured, carry._replace(z_H=z_H, z_L=z_L, steps=carry.steps + 1)


def halt(carry: Carry, q_halt: Tensor, config: TwinConfig) -> Carry:
    """Set the halting flags after a training step."""
    halted = (carry.steps >= config.halt_max_steps) | (q_halt > 0)
    if config.halt_exploration_prob > 0:
        explores = torch.rand(q_halt.shape, device=q_halt.device) < config.halt_exploration_prob
        least = torch.randint(2, config.halt_max_steps + 1, q_halt.shape, device=q_halt.device)
        halted = halted & (carry.steps >= torch.where(explores, least, 0))
    return carry._replace(halted=halted)


def adam_atan2(
    weights: list[Tensor], m: list[Tensor], v: list[Tensor], lr: float, step: int, optim: OptimConfig
) -> None:
    """Update weights and moments in place from `weight.grad`; the first correction stands outside atan2."""
    grads = [weight.grad for weight in weights]
    torch._foreach_mul_(weights, 1 - lr * optim.weight_decay)
    torch._foreach_lerp_(m, grads, 1 - optim.beta1)
    torch._foreach_mul_(v, optim.beta2)
    torch._foreach_addcmul_(v, grads, grads, 1 - optim.beta2)
    scales = torch._foreach_sqrt(v)
    torch._foreach_div_(scales, math.sqrt(1 - optim.beta2**step))
    updates = [torch.atan2(first, scale) for first, scale in zip(m, scales, strict=True)]
    torch._foreach_add_(weights, updates, alpha=-lr / (1 - optim.beta1**step))


def sign_sgd(table: Tensor, ids: Tensor, grads: Tensor, lr: float, weight_decay: float) -> None:
    """Move the rows of `table` named in ids [B] against the sign of their summed gradients [B, ndim]."""
    touched, slot = ids.unique(return_inverse=True)
    summed = torch.zeros(len(touched), grads.shape[1], device=grads.device).index_add_(0, slot, grads)
    table[touched] = table[touched] * (1 - lr * weight_decay) - lr * summed.sign()


class Trainer:
    """A model with its optimisers, EMA and carry; `step` is one training step on one batch.

    batch: `inputs`, `labels` [B, S] and `puzzle_identifiers` [B], integers on the model's device.
    """

    def __init__(self, model: TRM, optim: OptimConfig, compiled: bool = False):
        self.model, self.optim = model, optim
        self.weights = list(model.parameters())
        self.m = [torch.zeros_like(weight) for weight in self.weights]
        self.v = [torch.zeros_like(weight) for weight in self.weights]
        self.ema = [weight.detach().clone() for weight in self.weights]
        self.carry: Carry | None = None
        self.updates = 0
        self.supervise = torch.compile(supervise) if compiled else supervise

    def step(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Train on one batch; returns detached measurements, `loss` summed over the batch."""
        carry = self.model.refill(self.carry or self.model.empty_carry(batch), batch)
        ids = carry.data["puzzle_identifiers"].long()
        rows = self.model.puzzle_emb.weights[ids].requires_grad_()
        loss, measured, carry = self.supervise(self.model, carry, rows)
        (loss / len(ids)).backward()
        self.carry = halt(carry, measured["q_halt"], self.model.config)
        self.update(ids, rows.grad)
        return measured | {"loss": loss.detach()}

    @torch.no_grad()
    def update(self, ids: Tensor, puzzle_grads: Tensor) -> None:
        """Apply the gradients of the last backward pass to the weights, the puzzle table and the EMA."""
        optim, self.updates = self.optim, self.updates + 1
        warmup = min(1.0, self.updates / optim.warmup_steps)
        adam_atan2(self.weights, self.m, self.v, optim.lr * warmup, self.updates, optim)
        sign_sgd(self.model.puzzle_emb.weights, ids, puzzle_grads, optim.puzzle_lr * warmup, optim.puzzle_weight_decay)
        torch._foreach_lerp_(self.ema, self.weights, 1 - optim.ema_rate)
        for weight in self.weights:
            weight.grad = None

    def named_ema(self) -> dict[str, Tensor]:
        """The averaged weights by parameter name."""
        return dict(zip((name for name, _ in self.model.named_parameters()), self.ema, strict=True))


def training(cfg, params: Mapping, batch: Mapping[str, Tensor], compiled: bool, total_steps: int) -> Callable:
    """A function that takes one training step and gives the loss over the batch, for a run of the library.

    params: its parameters; batch: by the library's names. The rates are constant behind the warm-up, for any number of
    steps.
    """
    from trm_jax.models.convert.torch_format import export_state_dict

    settings = {name: getattr(cfg.model, name) for name in TwinConfig.__dataclass_fields__ if hasattr(cfg.model, name)}
    model = TRM(TwinConfig(**settings, num_puzzle_identifiers=cfg.model.num_puzzle_ids, forward_dtype=cfg.model.dtype))
    model.load_official(export_state_dict(params, ids=cfg.model.num_puzzle_ids))
    model.to(batch["inputs"].device)
    o = cfg.optim
    optim = OptimConfig(
        lr=o.lr,
        weight_decay=o.weight_decay,
        beta1=o.beta1,
        beta2=o.beta2,
        puzzle_lr=o.table_lr,
        puzzle_weight_decay=o.table_weight_decay,
        warmup_steps=o.warmup_steps,
        ema_rate=o.ema_decay,
    )
    trainer = Trainer(model, optim, compiled=compiled)
    named = {"puzzle_identifiers" if name == "puzzle_ids" else name: array for name, array in batch.items()}
    return lambda: trainer.step(named)["loss"]
