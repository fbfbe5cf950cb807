"""The ARC transformer in plain PyTorch, its training step and its greedy decoding: the peer of `trm_jax`'s.

Nothing here is imported by the library. The model is an ordinary `nn.Module` under its author's parameter names; the
step is forward, loss, backward, clipping, NorMuon for the matrices of the layers and AdamW for all else. Weights stay
in float32 and are cast to the compute dtype at each use; norms, rotary positions and the residual stream are float32.
B = rows, S = tokens of a row, D = hidden size, H = heads, K = size of a head.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.torch_twin import Linear

DIHEDRALS = 8
START, NEXT_LINE, SEPARATOR, END = 10, 11, 12, 13
MOST_COLUMN, MOST_ROW = 30, 29
IGNORED_LABEL = -100
# What the twin does: of these settings it knows this value alone.
SERVED = {
    "model": {"positions": "rope3d", "task_row": True, "dihedral_row": True},
    "optim": {"name": "normuon", "schedule": "wsd", "ema_decay": 0.0, "ema_also": ""},
    "train": {"loss": "softmax"},
}


@dataclasses.dataclass(frozen=True)
class TwinConfig:
    """Shape of the transformer, under the names of the library's settings."""

    vocab_size: int
    num_puzzle_ids: int
    hidden_size: int = 768
    num_heads: int = 12
    layers: int = 8
    ff_size: int = 3072
    rope_theta: float = 10_000.0
    dropout: float = 0.1
    attention_dropout: float = 0.1
    rms_eps: float = 1e-6
    dtype: str = "float32"

    @property
    def compute_dtype(self) -> torch.dtype:
        return getattr(torch, self.dtype)


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """Rates of both optimisers; they warm up, stay and decay together, by shares of `total_steps`."""

    total_steps: int
    lr: float = 1.66e-3
    other_lr: float = 3e-4
    weight_decay: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.95
    clip: float = 1.0
    warmup_share: float = 0.02
    decay_share: float = 0.2

    def factor(self, step: int) -> float:
        """Of the rates, at step 0, 1, ..."""
        done = step / self.total_steps
        up = done / self.warmup_share if self.warmup_share else 1.0
        down = (1 - done) / self.decay_share if self.decay_share else 1.0
        return min(up, 1.0, down)


def rotation(config: TwinConfig, places: Tensor) -> tuple[Tensor, Tensor]:
    """(cos, sin) [B, 1, S, K / 2] float32 of places [B, S, 3 or more]: column, row, part."""
    pairs = config.hidden_size // config.num_heads // 2
    third, angles = pairs // 3, []
    for axis, count in enumerate((third, third, pairs - 2 * third)):
        frequencies = config.rope_theta ** -(torch.arange(count, device=places.device).float() / count)
        angles.append(places[..., axis, None].float() * frequencies)
    together = torch.cat(angles, dim=-1)[:, None]
    return together.cos(), together.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pairs (2 i, 2 i + 1) of x [B, H, S, K] in float32."""
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2).to(x.dtype)


class Attention(nn.Module):
    """Multi-head attention with a fused qkv projection, and a cache where `make_room` made one."""

    def __init__(self, config: TwinConfig):
        super().__init__()
        self.heads, self.rate = config.num_heads, config.attention_dropout
        self.qkv_proj = Linear(config.hidden_size, 3 * config.hidden_size)
        self.out_proj = Linear(config.hidden_size, config.hidden_size)

    def make_room(self, rows: int, room: int, dtype: torch.dtype) -> None:
        """A cache of keys and values for so many tokens of each row; buffers, whose place in memory stays."""
        width = self.out_proj.weight.shape[0]
        blank = torch.zeros(
            rows, self.heads, room, width // self.heads, dtype=dtype, device=self.out_proj.weight.device
        )
        self.register_buffer("keys", blank, persistent=False)
        self.register_buffer("values", blank.clone(), persistent=False)

    def forward(self, x: Tensor, turn: tuple[Tensor, Tensor], mask: Tensor, slots: Tensor | None) -> Tensor:
        q, k, v = self.qkv_proj(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        q, k = rotate(q, *turn), rotate(k, *turn)
        if slots is not None:
            self.keys[:, :, slots], self.values[:, :, slots] = k, v
            k, v = self.keys, self.values
        rate = self.rate if self.training else 0.0
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=rate)
        return self.out_proj(out.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """`fc_out(value * silu(gate))`, both halves by one projection."""

    def __init__(self, config: TwinConfig):
        super().__init__()
        self.rate = config.dropout
        self.fc_in = Linear(config.hidden_size, 2 * config.ff_size, bias=True)
        self.fc_out = Linear(config.ff_size, config.hidden_size, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.fc_in(x).chunk(2, dim=-1)
        hidden = F.dropout(value * F.silu(gate), self.rate, self.training)
        return F.dropout(self.fc_out(hidden), self.rate, self.training)


class Block(nn.Module):
    """Pre-norm block."""

    def __init__(self, config: TwinConfig):
        super().__init__()
        self.dtype = config.compute_dtype
        self.ln_1 = nn.RMSNorm(config.hidden_size, config.rms_eps)
        self.attention = Attention(config)
        self.ln_2 = nn.RMSNorm(config.hidden_size, config.rms_eps)
        self.ff = FeedForward(config)

    def forward(self, x: Tensor, turn: tuple[Tensor, Tensor], mask: Tensor, slots: Tensor | None) -> Tensor:
        x = x + self.attention(self.ln_1(x).to(self.dtype), turn, mask, slots)
        return x + self.ff(self.ln_2(x).to(self.dtype))


class ArcTransformer(nn.Module):
    """Logits [B, S, V] float32 of the token that follows each."""

    def __init__(self, config: TwinConfig):
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.example_embedding = nn.Embedding(config.num_puzzle_ids, config.hidden_size)
        self.dihedral_embedding = nn.Embedding(DIHEDRALS, config.hidden_size)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.RMSNorm(config.hidden_size, config.rms_eps)
        self.lm_head = Linear(config.hidden_size, config.vocab_size)

    def load_author(self, state: Mapping[str, np.ndarray]) -> None:
        """Load arrays under the author's names."""
        self.load_state_dict({name: torch.tensor(array, dtype=torch.float32) for name, array in state.items()})

    def forward(self, batch: Mapping[str, Tensor], mask: Tensor, slots: Tensor | None = None) -> Tensor:
        """batch: `inputs`, `puzzle_ids`, `dihedrals` [B, S] and `places` [B, S, 4]; mask [B, 1, S, keys]: what each
        sees; slots [S]: where the cache takes them, if there is one."""
        x = self.token_embedding(batch["inputs"]) + self.example_embedding(batch["puzzle_ids"])
        x = F.dropout(x + self.dihedral_embedding(batch["dihedrals"]), self.config.dropout, self.training)
        turn = rotation(self.config, batch["places"])
        for block in self.blocks:
            x = block(x, turn, mask, slots)
        return self.lm_head(self.norm(x).to(self.config.compute_dtype)).float()


def causal_mask(segments: Tensor) -> Tensor:
    """[B, 1, S, S]: each token sees those of its own segment up to itself; segments [B, S]."""
    size = segments.shape[1]
    below = torch.ones(size, size, dtype=torch.bool, device=segments.device).tril()
    return ((segments[:, :, None] == segments[:, None, :]) & below)[:, None]


def loss_of(model: ArcTransformer, batch: Mapping[str, Tensor]) -> Tensor:
    """Cross-entropy times `weights`, summed over all tokens: B times the mean over the targets."""
    logits = model(batch, causal_mask(batch["segments"]))
    labels = batch["labels"].flatten().long()
    losses = F.cross_entropy(logits.flatten(0, 1), labels, reduction="none", ignore_index=IGNORED_LABEL)
    return (losses * batch["weights"].flatten()).sum()


def norms(x: Tensor) -> Tensor:
    """Frobenius norms [n, 1, 1] float32 of matrices [n, out, in]."""
    return x.float().square().sum((-2, -1), keepdim=True).sqrt()


def newton_schulz(x: Tensor) -> Tensor:
    """About the nearest orthogonal matrices to x [n, out, in]: five iterations, in bfloat16 on a GPU."""
    tall = x.shape[-2] > x.shape[-1]
    x = (x.mT if tall else x).to(torch.bfloat16 if x.is_cuda else torch.float32)
    x = x / (norms(x).to(x.dtype) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=-4.7750, alpha=2.0315), x, beta=3.4445)
    return (x.mT if tall else x).float()


def normuon(grads: Tensor, momentum: Tensor, second: Tensor, beta: float = 0.95, beta2: float = 0.95) -> Tensor:
    """The direction [n, out, in] of one update; momentum [n, out, in] and second [n, out] change in place."""
    momentum.mul_(beta).add_(grads, alpha=1 - beta)
    u = newton_schulz((1 - beta) * grads + beta * momentum)
    second.mul_(beta2).add_(u.square().mean(-1), alpha=1 - beta2)
    rows = u / (second.sqrt() + 1e-10)[..., None]
    out, inner = u.shape[-2:]
    return rows * (norms(u) / (norms(rows) + 1e-10)) * max(1.0, out / inner) ** 0.5


@dataclasses.dataclass
class Matrices:
    """Matrices of one shape, a layer each, with NorMuon's state of all of them."""

    weights: list[Tensor]
    decay: float  # share of the weight decay

    def __post_init__(self):
        self.momentum = torch.zeros_like(torch.stack([weight.detach() for weight in self.weights]))
        self.second = torch.zeros_like(self.momentum[..., 0])


class Trainer:
    """A model with its optimisers; `step` is one training step on one batch, on the model's device."""

    def __init__(self, model: ArcTransformer, optim: OptimConfig, compiled: bool = False):
        self.model, self.optim, self.steps = model.train(), optim, 0
        blocks = model.blocks
        self.matrices = [
            Matrices([block.attention.qkv_proj.weight for block in blocks], 0.1),
            Matrices([block.attention.out_proj.weight for block in blocks], 0.1),
            Matrices([block.ff.fc_in.weight for block in blocks], 1.0),
            Matrices([block.ff.fc_out.weight for block in blocks], 1.0),
        ]
        tables = [model.token_embedding.weight, model.example_embedding.weight, model.dihedral_embedding.weight]
        groups = {0.1: tables, 1.0: [model.lm_head.weight], 0.0: [p for p in model.parameters() if p.ndim == 1]}
        self.adamw = torch.optim.AdamW(
            [{"params": these, "weight_decay": optim.weight_decay * decay} for decay, these in groups.items()],
            lr=optim.other_lr,
            betas=(optim.beta1, optim.beta2),
            eps=1e-10,
            fused=tables[0].is_cuda,
        )
        self.loss_of = torch.compile(loss_of) if compiled else loss_of
        # Four shapes, each with kernels of its own.
        self.normuon = torch.compile(normuon, dynamic=False) if compiled else normuon

    def step(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Train on one batch; the loss, summed over its rows."""
        loss = self.loss_of(self.model, batch)
        (loss / len(batch["inputs"])).backward()
        self.update()
        return loss.detach()

    @torch.no_grad()
    def update(self) -> None:
        """Apply the gradients of the last backward pass."""
        optim, factor = self.optim, self.optim.factor(self.steps)
        self.steps += 1
        if optim.clip:
            nn.utils.clip_grad_norm_(self.model.parameters(), optim.clip)
        for group in self.adamw.param_groups:
            group["lr"] = optim.other_lr * factor
        self.adamw.step()
        lr = optim.lr * factor
        for these in self.matrices:
            grads = torch.stack([weight.grad for weight in these.weights])
            moves = self.normuon(grads, these.momentum, these.second)
            torch._foreach_mul_(these.weights, 1 - lr * optim.weight_decay * these.decay)
            torch._foreach_add_(these.weights, list(moves.unbind()), alpha=-lr)
        self.model.zero_grad()


def place_of(cursor: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """(column, row and part [B, 3] of tokens [B] behind a separator, the cursor [B, 2] behind them)."""
    line, other = tokens == NEXT_LINE, (tokens == START) | (tokens >= SEPARATOR)
    part = torch.full_like(tokens, 3)
    for token, its in ((START, 0), (SEPARATOR, 2), (END, 4)):
        part = torch.where(tokens == token, its, part)
    place = torch.cat((torch.where(other[:, None], 0, cursor), part[:, None]), dim=-1)
    x, y = cursor.unbind(-1)
    x = torch.where(other, x, torch.where(line, 0, (x + 1).clamp(max=MOST_COLUMN)))
    y = torch.where(line, (y + 1).clamp(max=MOST_ROW), y)
    return place, torch.where((tokens == SEPARATOR)[:, None], 0, torch.stack((x, y), dim=-1))


class Writer:
    """Greedy decoding with a cache of fixed size; no token ends an answer."""

    def __init__(self, model: ArcTransformer, rows: int, room: int, compiled: bool = False):
        """A copy of the model, its products' weights in the compute dtype. room: tokens of a prompt and its answer."""
        self.model = copy.deepcopy(model).eval()
        self.room, dtype = room, model.config.compute_dtype
        for module in self.model.modules():
            if isinstance(module, Linear):
                module.to(dtype)
            if isinstance(module, Attention):
                module.make_room(rows, room, dtype)
        self.advance = (
            torch.compile(self._advance, mode="reduce-overhead", fullgraph=True) if compiled else self._advance
        )

    @torch.no_grad()
    def __call__(self, batch: Mapping[str, Tensor], count: int) -> Tensor:
        """Tokens [B, count] behind prompts that are padded in front to one length; `segments` -1 is padding."""
        rows, size = batch["inputs"].shape
        slots = torch.arange(self.room, device=batch["inputs"].device)
        mask = F.pad(causal_mask(batch["segments"]), (0, self.room - size))
        token = self.model(batch, mask, slots[:size])[:, -1].argmax(-1)
        seen = F.pad(batch["segments"] >= 0, (0, self.room - size), value=True)
        cursor, names = torch.zeros(rows, 2, dtype=torch.long, device=slots.device), ("puzzle_ids", "dihedrals")
        ids = {name: batch[name][:, -1:].clone() for name in names}
        said = [token]
        for slot in range(size, size + count - 1):
            # What a compiled call gives, the next one overwrites.
            token, cursor = (x.clone() for x in self.advance(token, cursor, slots[slot : slot + 1], seen, ids))
            said.append(token)
        return torch.stack(said, dim=1)

    def _advance(self, tokens: Tensor, cursor: Tensor, slot: Tensor, seen: Tensor, ids: dict) -> tuple[Tensor, Tensor]:
        """(the token behind `tokens` [B], the cursor behind `tokens`)."""
        place, cursor = place_of(cursor, tokens)
        mask = (seen & (torch.arange(self.room, device=slot.device) <= slot))[:, None, None]
        logits = self.model({"inputs": tokens[:, None], "places": place[:, None], **ids}, mask, slot)
        return logits[:, -1].argmax(-1), cursor


def model_of(cfg, params: Mapping, device: str) -> ArcTransformer:
    """The twin of a run of the library with its parameters. Raises NotImplementedError for settings that it lacks."""
    from trm_jax.models.convert.arc_transformer import export_state_dict

    for section, settings in SERVED.items():
        for name, only in settings.items():
            if getattr(getattr(cfg, section), name) != only:
                raise NotImplementedError(f"the PyTorch twin is for {section}.{name}={only} only")
    shape = {name: getattr(cfg.model, name) for name in TwinConfig.__dataclass_fields__}
    model = ArcTransformer(TwinConfig(**shape))
    model.load_author(export_state_dict(params["weights"]))
    return model.to(device)


def training(cfg, params: Mapping, batch: Mapping[str, Tensor], compiled: bool, total_steps: int) -> Callable:
    """A function that takes one training step and gives the loss over the batch."""
    o = cfg.optim
    names = [name for name in OptimConfig.__dataclass_fields__ if name != "total_steps"]
    optim = OptimConfig(total_steps, **{name: getattr(o, name) for name in names})
    trainer = Trainer(model_of(cfg, params, batch["inputs"].device), optim, compiled)
    return lambda: trainer.step(batch)


def writing(cfg, params: Mapping, prompts: Mapping[str, Tensor], count: int, compiled: bool) -> Callable:
    """A function that writes `count` tokens behind each prompt, [B, count]."""
    rows, size = prompts["inputs"].shape
    writer = Writer(model_of(cfg, params, prompts["inputs"].device), rows, size + count, compiled)
    return lambda: writer(prompts, count)
