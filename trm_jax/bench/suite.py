"""What `trm bench` measures: everything is compiled first, then all of it takes turns until the time is up.

So every figure is spread over the whole run, and its quartiles hold what else the machine did meanwhile.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jaxlib
import numpy as np

import trm_jax
from trm_jax.bench import measure
from trm_jax.bench.shapes import dtype, that_fit
from trm_jax.data import loader
from trm_jax.errors import InputError
from trm_jax.planning.floor import Rates, floor
from trm_jax.planning.hardware import of_kind
from trm_jax.train.config import RunConfig

TOGETHER = 64  # puzzles solved in one batch
# What is measured of a run, in order of importance.
TRAIN, EVALUATE, WRITE, ONE, DATA, START = "train", "evaluate", "write", "solve 1", "read a batch", "start"
MANY = f"solve {TOGETHER}"
TWIN, TWIN_WRITE = f"{TRAIN}, PyTorch", f"{WRITE}, PyTorch"
WHAT = (TRAIN, TWIN, EVALUATE, WRITE, TWIN_WRITE, ONE, MANY, DATA, START)
TWINS = {TWIN: TRAIN, TWIN_WRITE: WRITE}  # PyTorch's figure -> ours that it takes turns with
_ROUNDS = 3  # for which there must be time, or a thing is not measured
_SAMPLES = 30  # at most


@dataclasses.dataclass
class Figure:
    """One figure under way: `once()` is one sample, in seconds. work: FLOPs or bytes of a call. first: what the first
    call gave, with which a twin must agree."""

    once: Callable[[], float]
    facts: dict = dataclasses.field(default_factory=dict)
    work: float = 0.0
    most: int = _SAMPLES
    first: Any = None
    seconds: list[float] = dataclasses.field(default_factory=list)

    def sample(self) -> None:
        self.seconds.append(self.once())

    def rate(self) -> dict[str, float]:
        return measure.spread(self.work / s for s in self.seconds)

    def to_json(self) -> dict:
        return {**self.facts, "seconds": measure.spread(self.seconds)}


def machine() -> dict:
    """The devices and versions that figures are of."""
    device, info = jax.devices()[0], Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    processor = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
    versions = {"trm_jax": trm_jax.__version__, "jax": jax.__version__, "jaxlib": jaxlib.__version__}
    return {
        "device": device.device_kind if device.platform != "cpu" else processor or platform.machine(),
        "platform": device.platform,
        "devices": jax.device_count(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "versions": versions | {"python": platform.python_version()},
    }


def data_sheet(kind: str) -> Rates | None:
    """The rates of one device of that kind by the planner's table; None where it is not there."""
    found = of_kind(kind)
    return Rates.of(found) if found else None


def run(
    configs: Sequence[RunConfig],
    seconds: float,
    *,
    what: Sequence[str] = tuple(kind for kind in WHAT if kind not in TWINS),
    say: Callable[[str], None] = lambda line: None,
    keep: Callable[[dict], None] = lambda results: None,
) -> dict:
    """Measure the runs for about so many seconds; the results, as JSON takes them. keep: gets every state of them.

    say: takes lines for a person. What does not fit into the time is left out, the least important first; a program
    that fails is a line in the results.
    """
    ends = time.monotonic() + seconds
    results = {**machine(), "rates": {}, "runs": {cfg.name: {} for cfg in configs}, "left_out": []}
    on_cpu = results["platform"] == "cpu"
    size = 2048 if on_cpu else 8192
    rates = {name: Figure(*_split(measure.product(name, size))) for name in dict.fromkeys(map(dtype, configs))}
    rates["copy"] = Figure(*_split(measure.copy(2**27 if on_cpu else 2**30)))
    for rate in rates.values():
        rate.sample()
    figures: dict[tuple[str, str], Figure] = {}

    def left() -> float:
        return ends - time.monotonic()

    def tell() -> None:
        results["rates"] = {name: rate.rate() for name, rate in rates.items()}
        for (name, kind), figure in figures.items():
            results["runs"][name][kind] = figure.to_json() | _limits(cfgs[name], kind, figure, results)
        keep(results)

    cfgs, programs, takes = {cfg.name: cfg for cfg in configs}, {}, 10.0 if on_cpu else 30.0
    for kind in [kind for kind in WHAT if kind in what]:
        for cfg in [cfg for cfg in configs if _has(cfg, kind)]:
            rows, flops = _work(cfg, kind)
            one = 1.5 * flops / (rates[dtype(cfg)].work / rates[dtype(cfg)].seconds[0])
            claimed = sum(_ROUNDS * figure.seconds[0] for figure in figures.values())
            if takes + _ROUNDS * one > left() - claimed:
                results["left_out"].append(f"{cfg.name}: {kind}")
                continue
            say(f"{cfg.name}: {kind}")
            began = time.monotonic()
            try:
                if figure := _figure(cfg, kind, rows, programs, figures.get((cfg.name, TWINS.get(kind, "")))):
                    figure.sample()
                    figures[cfg.name, kind] = figure
            except (jax.errors.JaxRuntimeError, RuntimeError) as error:  # too large for the device, or not for it
                results["runs"][cfg.name][kind] = {"error": str(error).strip().splitlines()[0][:300]}
            takes = max(1.0, time.monotonic() - began)
            tell()
    while ready := [f for f in figures.values() if len(f.seconds) < f.most and 1.5 * f.seconds[-1] < left()]:
        for figure in [*rates.values(), *ready]:
            if 1.5 * figure.seconds[-1] < left():
                figure.sample()
        tell()
    return results


def _split(made: tuple[measure.Call, float]) -> tuple:
    call, work = made
    return measure.sampler(call), {}, work


def _has(cfg: RunConfig, kind: str) -> bool:
    """Whether the run has such a figure: a model that writes its answers token by token does not solve otherwise."""
    return kind not in (WRITE, TWIN_WRITE, ONE, MANY) or measure.writes(cfg) == (kind in (WRITE, TWIN_WRITE))


def _work(cfg: RunConfig, kind: str) -> tuple[int, int]:
    """(rows, FLOPs) of one call."""
    step, answer = cfg.family.flops(cfg.model)
    size, held_out = cfg.train.batch_size, cfg.eval.batch_size
    written = answer * measure.WRITTEN // cfg.model.seq_len
    rows, of_a_row = {
        EVALUATE: (held_out, answer),
        WRITE: (held_out, written),
        TWIN_WRITE: (held_out, written),
        ONE: (1, answer),
        MANY: (TOGETHER, answer),
        DATA: (size, 0),
    }.get(kind, (size, step))
    return rows, rows * of_a_row


def _limits(cfg: RunConfig, kind: str, figure: Figure, results: dict) -> dict:
    """The floor in seconds at the rates measured by now; utilisation of the measured product, and of the data sheet."""
    rows, flops = _work(cfg, kind)
    if kind in (WRITE, TWIN_WRITE):  # bound by what it reads
        return {"rows": rows, "floor_s": figure.facts["least_read"] / results["rates"]["copy"]["median"]}
    if kind not in (TRAIN, TWIN, EVALUATE, ONE, MANY):
        return {}
    chips = 1 if kind in (ONE, MANY) else results["devices"]
    product, copied = (results["rates"][name]["median"] * chips for name in (dtype(cfg), "copy"))
    median, sheet = measure.spread(figure.seconds)["median"], data_sheet(results["device"])
    floors = {"floor_s": sum(floor(cfg, Rates(product, copied)).values())} if kind in (TRAIN, TWIN) else {}
    of_sheet = {"mfu": flops / median / (sheet.flops * chips)} if sheet and dtype(cfg) == "bfloat16" else {}
    return {"rows": rows, "flops": flops, "of_product": flops / median / product} | floors | of_sheet


def _figure(
    cfg: RunConfig, kind: str, rows: int, programs: dict[str, measure.Programs], ours: Figure | None
) -> Figure | None:
    """Compiled and warm; None where there is nothing to measure. ours: what a twin's is held against."""
    if kind == TRAIN:
        return _train(cfg, programs)
    if kind == DATA:
        return _data(cfg)
    if kind == START:
        return Figure(partial(_start, cfg), most=3)
    if kind in TWINS:
        return _twin(cfg, kind, ours) if ours else None
    if cfg.name not in programs:
        return None
    one = programs[cfg.name]
    if kind == WRITE:
        call, facts = one.write(rows)
        first = call()
        return Figure(measure.sampler(call), facts, first=first)
    call, facts = one.evaluate(rows) if kind == EVALUATE else one.think(rows)
    # One puzzle: somebody waits for it.
    return Figure(measure.sampler(call, 0.0 if kind == ONE else 0.1), facts)


def _train(cfg: RunConfig, programs: dict[str, measure.Programs]) -> Figure:
    """The step, in as many parts as it takes to fit into the memory."""
    room = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit", 2**63)
    for tried in that_fit(cfg, jax.device_count(), room):
        try:
            programs[cfg.name] = measure.Programs(tried)
            call, facts = programs[cfg.name].train()
            first = float(call()["loss"])
            facts |= {"accumulation": tried.train.accumulation, "first_loss": first}
            return Figure(measure.sampler(call), facts, first=first)
        except jax.errors.JaxRuntimeError as error:
            programs.pop(cfg.name, None)
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
    raise RuntimeError("not even the smallest part of the batch fits into the memory")


def require_twin(configs: Sequence[RunConfig]) -> None:
    """Raise InputError unless PyTorch twins of these runs can be measured here."""
    root = Path(trm_jax.__file__).parents[1]
    if not (root / "benchmarks" / "torch_speed.py").exists():
        raise InputError(
            "the PyTorch twins are in the checkout and not in the package; run `trm bench` from a checkout"
        )
    if importlib.util.find_spec("torch") is None:
        raise InputError("--compare torch needs PyTorch: pip install torch")
    if str(root) not in sys.path:
        sys.path.append(str(root))
    twins = importlib.import_module("benchmarks.torch_speed").TWINS
    for cfg in configs:
        if (family := cfg.page["model"]["family"]) not in twins:
            raise InputError(f"{cfg.name}: model.family={family} has no PyTorch twin; leave out --compare torch")


def _twin(cfg: RunConfig, kind: str, ours: Figure) -> Figure:
    """The same by PyTorch, with the same weights and batch: eager on a CPU, by torch.compile on a GPU.

    Raises RuntimeError where its first loss, or what it writes in float32, is another: the two do not do the same.
    """
    twin, on_gpu = importlib.import_module("benchmarks.torch_speed"), jax.default_backend() == "gpu"
    how = {"device": "cuda" if on_gpu else "cpu", "compiled": on_gpu}
    began = time.perf_counter()
    if kind == TWIN:
        side = twin.torch_side(cfg, measure.random_batch(cfg, cfg.train.batch_size), **how)
        loss = twin.first_step(side) / cfg.train.batch_size
        facts = {"first_loss": loss}
        if not twin.agree(ours.first, loss, twin.tolerance(cfg)):
            raise RuntimeError(f"the two disagree: first loss {ours.first:.6g} here, {loss:.6g} from PyTorch")
    else:
        side = twin.torch_writer(cfg, measure.random_prompts(cfg, cfg.eval.batch_size), measure.WRITTEN, **how)
        same = float(np.mean(side.step() == ours.first))
        facts = {"tokens_alike": same, **ours.facts}
        if dtype(cfg) == "float32" and same < 1:
            raise RuntimeError(f"the two disagree: {1 - same:.2%} of the tokens that PyTorch writes first are others")
    facts |= {"first_step_s": time.perf_counter() - began, "compiled": on_gpu}

    def once() -> float:
        time.sleep(twin.SETTLE_S)
        began = time.perf_counter()
        side.step()
        return time.perf_counter() - began

    return Figure(once, facts)


def _data(cfg: RunConfig) -> Figure | None:
    """Batches as training reads them, of generated puzzles; None for a task that makes none."""
    if hasattr(cfg.task, "made_up"):
        source, _ = cfg.task.made_up(cfg.data)
    elif not hasattr(cfg.data, "source") or cfg.task.info(cfg.data).seq_len != cfg.model.seq_len:
        return None
    else:
        made = dataclasses.replace(cfg.data, source="generated", train_puzzles=100, test_puzzles=1)
        source, _ = cfg.task.load(made)
    size = cfg.train.batch_size
    slots, steps = np.arange(size), {"start_step": 0, "stop_step": 2**31 - 1}
    rows = loader.batches(source, seed=0, batch_size=size, slots=slots, **steps)
    return Figure(measure.sampler(lambda: next(rows)["inputs"]))


_FIRST_STEP = """
import json, sys
from trm_jax.configs import defaults, resolve
page = json.loads(sys.argv[1])
page = resolve.override(defaults.defaults(page["data.task"], page["model.family"]), page)
from trm_jax.bench import measure
call, _ = measure.Programs(resolve.freeze(page)).train()
call()["loss"].block_until_ready()
"""


def _start(cfg: RunConfig) -> float:
    """Seconds from the start of a new Python to the end of its first step, compiled anew."""
    from trm_jax.configs.resolve import flatten

    own = {"JAX_ENABLE_COMPILATION_CACHE": "false", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    command = [sys.executable, "-c", _FIRST_STEP, json.dumps(flatten(cfg.page))]
    began = time.perf_counter()
    done = subprocess.run(command, env={**os.environ, **own}, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["it failed"])[-1])
    return time.perf_counter() - began
