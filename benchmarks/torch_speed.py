"""One training step of trm_jax against the PyTorch twin: same weights, same batch, interleaved in one process.

    python -m benchmarks.torch_speed                                    # baseline shapes, batch 32, CPU, eager PyTorch
    python -m benchmarks.torch_speed --set model.mlp_t=false model.pos_encodings=rope
    python -m benchmarks.torch_speed --config baseline_768 --batch 768 --dtype bfloat16 --device cuda --compile

A step is what training does: refill, H_cycles - 1 cycles without gradient and one with, loss, backward, AdamATan2,
sign-SGD on the puzzle table, EMA. Both sides first take one step from the same weights and their losses must agree.
The sides then take turns, each waiting for its result before the other begins; the order changes every round.
FLOP/s are analytic (matrix products only, rematerialised work not counted).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

# Relative difference allowed between the two first losses: rounding of the compute dtype through 21 calls of the net.
LOSS_TOLERANCE = {"float32": 1e-4, "bfloat16": 3e-2, "float16": 1e-2}
SETTLE_S = 0.05  # before each step: idle OpenMP threads spin for a while and would take the other side's cores
PEAK_TFLOPS = {"H200": {"bfloat16": 989.0}, "H100": {"bfloat16": 989.0}, "A100": {"bfloat16": 312.0}}  # dense, SXM


@dataclass
class Side:
    """One implementation: `step` takes one training step, waits for it and returns the loss over the batch."""

    name: str
    step: Callable[[], float]
    compile_s: float  # 0 where nothing is compiled ahead of the first step
    device_peak_bytes: Callable[[], int] | None = None  # None: measure the process instead
    first_s: float = 0.0
    peak_bytes: int = 0
    seconds: list[float] = field(default_factory=list)


class HostMemory:
    """Peak of this process's resident memory over what it was at the start (Linux; 0 elsewhere)."""

    def __enter__(self) -> HostMemory:
        self.available = Path("/proc/self/clear_refs").exists()
        if self.available:
            Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins anew
            self.start = self._kilobytes("VmRSS")
        return self

    def __exit__(self, *_) -> None:
        self.bytes = (self._kilobytes("VmHWM") - self.start) * 1024 if self.available else 0

    @staticmethod
    def _kilobytes(name: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith(name)).split()[1])


def official_weights(cfg) -> dict[str, np.ndarray]:
    """The weights that the library begins with, as an official state dict."""
    import jax

    from trm_jax.models.convert.torch_format import export_state_dict
    from trm_jax.train.state import initial_state

    params = jax.device_get(jax.jit(lambda key: initial_state(cfg, key).params)(jax.random.key(cfg.seed)))
    params = jax.tree.map(lambda x: np.asarray(x, np.float32), params)
    return export_state_dict(params, ids=cfg.model.num_puzzle_ids)


def jax_side(cfg) -> Side:
    """The library's compiled training step."""
    import jax

    from trm_jax.bench.measure import Programs

    device = jax.devices()[0]
    call, facts = Programs(cfg, [device]).train()

    def one_step() -> float:
        sums = jax.block_until_ready(call())
        return float(sums["lm_loss"] + 0.5 * sums["q_loss"])

    peak = (lambda: device.memory_stats()["peak_bytes_in_use"]) if device.platform == "gpu" else None
    return Side("jax", one_step, facts["compile_s"], peak)


def torch_side(cfg, weights: dict[str, np.ndarray], batch: dict, device: str, compiled: bool) -> Side:
    """The twin with the same settings and weights."""
    import torch

    from benchmarks.torch_twin import TRM, OptimConfig, Trainer, TwinConfig

    settings = {name: getattr(cfg.model, name) for name in TwinConfig.__dataclass_fields__ if hasattr(cfg.model, name)}
    model = TRM(TwinConfig(**settings, num_puzzle_identifiers=cfg.model.num_puzzle_ids, forward_dtype=cfg.model.dtype))
    model.load_official(weights)
    model.to(device)
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
    names = {"inputs": "inputs", "labels": "labels", "puzzle_ids": "puzzle_identifiers"}
    tensors = {names[name]: torch.from_numpy(array).to(device) for name, array in batch.items()}

    def one_step() -> float:
        return trainer.step(tensors)["loss"].item()  # .item() waits for the loss, synchronize for the updates

    def waited() -> float:
        loss = one_step()
        torch.cuda.synchronize()
        return loss

    if device == "cuda":
        return Side("torch", waited, 0.0, torch.cuda.max_memory_allocated)
    return Side("torch", one_step, 0.0)


def first_step(side: Side) -> float:
    """The loss of the first step; the twin's compilation happens in it."""
    began = time.perf_counter()
    with HostMemory() as memory:
        loss = side.step()
    side.first_s = time.perf_counter() - began
    side.peak_bytes = side.device_peak_bytes() if side.device_peak_bytes else memory.bytes
    return loss


def agree(ours: float, twins: float, dtype: str) -> bool:
    """Whether two first losses may be of the same work; not for NaN."""
    return abs(ours - twins) <= LOSS_TOLERANCE[dtype] * abs(twins)


def check_agreement(ours: float, twins: float, dtype: str) -> None:
    """Stop a comparison of two programs that do not do the same work."""
    if not agree(ours, twins, dtype):
        raise SystemExit(f"the sides disagree: first loss {ours:.6g} from jax, {twins:.6g} from torch")


def interleave(sides: list[Side], rounds: int) -> None:
    """Fill `seconds` of every side, one step a round each, in alternating order."""
    for number in range(rounds):
        for side in sides[:: 1 if number % 2 else -1]:
            time.sleep(SETTLE_S)
            began = time.perf_counter()
            side.step()
            side.seconds.append(time.perf_counter() - began)


def device_name(device: str) -> str:
    if device == "cuda":
        import torch

        return torch.cuda.get_device_name()
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()


def peak_tflops(name: str, dtype: str) -> float:
    """The chip's dense peak from the table; 0 when it is not there."""
    return next((peaks.get(dtype, 0.0) for chip, peaks in PEAK_TFLOPS.items() if chip in name), 0.0)


def report(args, cfg, sides: list[Side]) -> dict:
    """All figures of the run as one JSON-able dict."""
    import jax
    import torch

    from trm_jax.models import trm

    flops = args.batch * trm.matmul_flops(cfg.model)[1]
    name = device_name(args.device)
    peak = args.peak_tflops or peak_tflops(name, args.dtype)
    figures = {}
    for side in sides:
        fastest = min(side.seconds)
        figures[side.name] = {
            "min_s": fastest,
            "median_s": statistics.median(side.seconds),
            "seconds": side.seconds,
            "compile_s": side.compile_s,
            "first_step_s": side.first_s,
            "peak_bytes": side.peak_bytes,
            "tflops_per_s": flops / fastest / 1e12,
            "mfu": flops / fastest / 1e12 / peak if peak else None,
        }
    ours, twin = figures["jax"], figures["torch"]
    return {
        "command": "python -m benchmarks.torch_speed " + shlex.join(sys.argv[1:]),
        "device": name,
        "cores": len(os.sched_getaffinity(0)) if args.device == "cpu" and hasattr(os, "sched_getaffinity") else None,
        "threads": args.threads if args.device == "cpu" else None,
        "versions": {"python": platform.python_version(), "jax": jax.__version__, "torch": torch.__version__},
        "config": args.config,
        "model": {"mlp_t": cfg.model.mlp_t, "hidden_size": cfg.model.hidden_size, "dtype": cfg.model.dtype},
        "batch": args.batch,
        "torch_compile": args.compile,
        "step_tflops": flops / 1e12,
        "peak_tflops": peak or None,
        **figures,
        "ratio_min": twin["min_s"] / ours["min_s"],
        "ratio_median": twin["median_s"] / ours["median_s"],
    }


def show(figures: dict) -> None:
    """The table a person reads."""
    kind = "compiled" if figures["torch_compile"] else "eager"
    mixer = "mlp_t" if figures["model"]["mlp_t"] else "attention"
    print(
        f"{figures['config']} ({mixer}, {figures['model']['dtype']}), batch {figures['batch']}, {figures['device']}, "
        f"jax {figures['versions']['jax']}, torch {figures['versions']['torch']} {kind}"
    )
    print(f"{'':<8}{'min s':>9}{'median s':>10}{'first s':>9}{'compile s':>11}{'peak MB':>9}{'TFLOP/s':>9}{'MFU':>7}")
    for name in ("jax", "torch"):
        side = figures[name]
        mfu = f"{side['mfu']:.1%}" if side["mfu"] else "-"
        print(
            f"{name:<8}{side['min_s']:>9.3f}{side['median_s']:>10.3f}{side['first_step_s']:>9.2f}"
            f"{side['compile_s']:>11.2f}{side['peak_bytes'] / 1e6:>9.0f}{side['tflops_per_s']:>9.3f}{mfu:>7}"
        )
    print(f"torch / jax: {figures['ratio_min']:.3f} by minimum, {figures['ratio_median']:.3f} by median (>1: jax wins)")


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="baseline", help="experiment whose shapes are used (trm list)")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="changes to it, as for trm train")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--dtype", default="float32", choices=sorted(LOSS_TOLERANCE))
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=2, help="CPU cores and threads for each side")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--compile", action="store_true", help="torch.compile the twin")
    parser.add_argument("--peak-tflops", type=float, default=0.0, help="the chip's peak, for MFU; known for some GPUs")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    return parser.parse_args(argv)


def confine(args) -> None:
    """Before either library starts: the same cores for both, and a GPU's memory on demand, not three quarters of it."""
    os.environ["JAX_PLATFORMS"] = args.device
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    if args.device == "cpu":
        if hasattr(os, "sched_setaffinity"):  # XLA has no setting: it starts a thread for each core it may use
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.threads])
        import torch

        torch.set_num_threads(args.threads)


def measure(args) -> dict:
    """Run the comparison; raises SystemExit when the two sides do not compute the same loss."""
    confine(args)
    from trm_jax.bench.measure import random_batch
    from trm_jax.configs import registry, resolve

    changes = {"train.batch_size": args.batch, "model.dtype": args.dtype, **resolve.parse_assignments(args.set)}
    cfg = resolve.freeze(resolve.override(registry.get(args.config), changes))
    ours = jax_side(cfg)
    twin = torch_side(cfg, official_weights(cfg), random_batch(cfg.model, args.batch), args.device, args.compile)
    check_agreement(first_step(ours), first_step(twin), args.dtype)
    interleave([ours, twin], args.rounds)
    return report(args, cfg, [ours, twin])


def main() -> None:
    args = arguments()
    figures = measure(args)
    show(figures)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
