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
import importlib
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

# Setting model.family -> the module of its twin. It has training(cfg, params, batch, compiled, total_steps) and, of a
# family that writes token by token, writing(cfg, params, prompts, count, compiled).
TWINS = {"trm": "benchmarks.torch_twin", "arc_transformer": "benchmarks.torch_arc_transformer"}
# Relative difference allowed between the two first losses: rounding of the compute dtype through 21 calls of the net.
LOSS_TOLERANCE = {"float32": 1e-4, "bfloat16": 3e-2, "float16": 1e-2}
DROPOUT_TOLERANCE = 3e-2  # the two drop other values: first losses of 700 targets scatter by 0.5%
SETTLE_S = 0.05  # before each step: idle OpenMP threads spin for a while and would take the other side's cores
PEAK_TFLOPS = {"H200": {"bfloat16": 989.0}, "H100": {"bfloat16": 989.0}, "A100": {"bfloat16": 312.0}}  # dense, SXM


@dataclass
class Side:
    """One implementation: `step` does its work once and waits for it.

    It gives the loss over the batch of a training step, or the tokens that were written.
    """

    name: str
    step: Callable[[], float | np.ndarray]
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


def jax_side(cfg) -> Side:
    """The library's compiled training step."""
    import jax

    from trm_jax.bench.measure import Programs

    device = jax.devices()[0]
    call, facts = Programs(cfg, [device]).train()

    def one_step() -> float:
        return cfg.train.batch_size * float(jax.block_until_ready(call())["loss"])

    peak = (lambda: device.memory_stats()["peak_bytes_in_use"]) if device.platform == "gpu" else None
    return Side("jax", one_step, facts["compile_s"], peak)


def _twin(cfg, batch: dict, device: str) -> tuple:
    """(module of the run's twin, the parameters that the run begins with, float32, the batch's arrays there)."""
    import jax
    import torch

    from trm_jax.bench.measure import first_params

    params = jax.tree.map(lambda x: np.asarray(x, np.float32), jax.device_get(first_params(cfg)))
    tensors = {name: torch.from_numpy(array).to(device) for name, array in batch.items()}
    return importlib.import_module(TWINS[cfg.page["model"]["family"]]), params, tensors


def _side(call: Callable, device: str) -> Side:
    import torch

    if device == "cpu":
        return Side("torch", lambda: call().numpy(), 0.0)

    def waited() -> np.ndarray:
        out = call().cpu()  # waits for what is given back, synchronize for the updates
        torch.cuda.synchronize()
        return out.numpy()

    return Side("torch", waited, 0.0, torch.cuda.max_memory_allocated)


def torch_side(cfg, batch: dict, device: str, compiled: bool) -> Side:
    """The twin's training step with the same settings and weights."""
    from trm_jax.bench.measure import TOTAL_STEPS

    twin, params, tensors = _twin(cfg, batch, device)
    return _side(twin.training(cfg, params, tensors, compiled, TOTAL_STEPS), device)


def torch_writer(cfg, prompts: list[dict], count: int, device: str, compiled: bool) -> Side:
    """The twin's greedy decoding of `count` tokens behind each prompt, padded as the library pads them."""
    from trm_jax.evals.decode import CHUNK, collate
    from trm_jax.models.layers import round_up

    size = round_up(max(len(prompt["inputs"]) for prompt in prompts), CHUNK)
    twin, params, tensors = _twin(cfg, collate(prompts, size), device)
    return _side(twin.writing(cfg, params, tensors, count, compiled), device)


def first_step(side: Side) -> float:
    """The loss of the first step; the twin's compilation happens in it."""
    began = time.perf_counter()
    with HostMemory() as memory:
        loss = float(side.step())
    side.first_s = time.perf_counter() - began
    side.peak_bytes = side.device_peak_bytes() if side.device_peak_bytes else memory.bytes
    return loss


def tolerance(cfg) -> float:
    """How far two first losses of this run may be apart, relatively."""
    drops = any(getattr(cfg.model, name, 0.0) for name in ("dropout", "attention_dropout"))
    return max(LOSS_TOLERANCE[cfg.model.dtype], DROPOUT_TOLERANCE * drops)


def agree(ours: float, twins: float, tolerance: float) -> bool:
    """Whether two first losses may be of the same work; not for NaN."""
    return abs(ours - twins) <= tolerance * abs(twins)


def check_agreement(ours: float, twins: float, tolerance: float) -> None:
    """Stop a comparison of two programs that do not do the same work."""
    if not agree(ours, twins, tolerance):
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

    flops = args.batch * cfg.family.flops(cfg.model)[0]
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
        "model": {"hidden_size": cfg.model.hidden_size, "dtype": cfg.model.dtype},
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
    print(
        f"{figures['config']} ({figures['model']['dtype']}), batch {figures['batch']}, {figures['device']}, "
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
    twin = torch_side(cfg, random_batch(cfg, args.batch), args.device, args.compile)
    check_agreement(first_step(ours), first_step(twin), tolerance(cfg))
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
