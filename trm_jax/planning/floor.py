"""The least time that a training step takes on a device: what its parts compute and move, at the device's rates."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax

from trm_jax.models import params
from trm_jax.models.trm_cost import Part
from trm_jax.planning.hardware import Device
from trm_jax.train.config import RunConfig

_FLOAT32 = 4


class Rates(NamedTuple):
    """Of all chips of a device together: FLOP/s of products, bytes/s of memory."""

    flops: float
    bytes: float

    @classmethod
    def of(cls, device: Device) -> Rates:
        """The data sheet's: bfloat16 products, memory bandwidth."""
        return cls(device.chips * device.peak_tflops * 1e12, device.chips * device.bandwidth_tb_s * 1e12)


def step_parts(cfg: RunConfig) -> dict[str, Part]:
    """A whole step by part, all rows of it in `flops`, `step_bytes` and `fusible`: the family's, and the optimiser.

    A family that does not say its parts has one, "model", of which only the FLOPs are known.
    """
    rows, family = cfg.train.batch_size, cfg.family
    parts = family.parts(cfg.model) if hasattr(family, "parts") else {"model": Part(family.flops(cfg.model)[0])}
    found = {
        name: Part(rows * part.flops, 0, rows * part.row_bytes + part.step_bytes, rows * part.fusible)
        for name, part in parts.items()
    }
    weights, matrices = cfg.family.specs(cfg.model)["weights"], _orthogonalised(cfg)
    averages = bool(cfg.optim.ema_decay) + len(cfg.optim.other_decays)
    # Gradients are read; weights, moments and averages are read and written. A Muon's matrices have one moment.
    values = params.count(weights) * (1 + 2 * (3 + averages)) - 2 * params.count(matrices)
    return found | {"optimiser": Part(optimiser_flops(cfg), step_bytes=values * _FLOAT32)}


def _orthogonalised(cfg: RunConfig) -> list[params.ParamSpec]:
    """The matrices that a Muon trains."""
    weights = jax.tree.leaves(cfg.family.specs(cfg.model)["weights"], is_leaf=params.is_spec)
    kinds = {"normuon": ("matrix",), "urm_muon": ("matrix", "embedding", "head")}.get(cfg.optim.name, ())
    return [spec for spec in weights if spec.kind in kinds]


def optimiser_flops(cfg: RunConfig) -> int:
    """FLOPs of the optimiser's products in a step."""
    one = cfg.optim.name == "urm_muon"  # takes [in, ...out] as one matrix
    shapes = [spec.shape for spec in _orthogonalised(cfg)]
    return sum(_newton_schulz_flops(*((s[0], math.prod(s[1:])) if one else s)) for s in shapes)


def _newton_schulz_flops(*shape: int) -> int:
    """Of five iterations on matrices [..., out, in]: X X^T, A A and a product with X, which lies on its longer side."""
    (*many, out, inner), steps = shape, 5
    rows, columns = min(out, inner), max(out, inner)
    return steps * math.prod(many) * (4 * rows * rows * columns + 2 * rows**3)


def apart(cfg: RunConfig, rates: Rates) -> dict[str, float]:
    """Seconds of each part when every kernel is one of its own: its FLOPs or its bytes, whichever take longer."""
    return {
        name: max(part.flops / rates.flops, part.step_bytes / rates.bytes) for name, part in step_parts(cfg).items()
    }


def floor(cfg: RunConfig, rates: Rates) -> dict[str, float]:
    """The same when each block is one kernel and latents alone pass through memory: no step is faster."""
    return {
        name: max(part.flops / rates.flops, (part.step_bytes - part.fusible) / rates.bytes)
        for name, part in step_parts(cfg).items()
    }
