"""`trm bench`: what this machine reaches: training, evaluation, solving, writing, data, start.

Random batches; no puzzle files are needed. Everything takes turns until the time is up; a figure is the median of n
samples with their quartiles. What does not fit into the time is left out, the least important first.
floor: what the products of a training step and its least traffic of memory take at the rates measured in the same run
(docs/performance.md). of product: FLOP/s, as a share of what a large product reached; MFU: as a share of the
data sheet's bfloat16 peak, where that is known.
write: a model that answers token by token writes 64 behind each of eval.batch_size prompts; no row ends earlier. Its
floor: reading the weights in the compute dtype and the cache for each token, at the measured rate of a copy.
Without a name: on a CPU demo and a small batch of baseline, elsewhere the five shapes of docs/performance.md.

examples:
  trm bench
  trm bench baseline_768 --minutes 3 --json before.json
  trm bench baseline_768 --minutes 3 --against before.json      faster or slower than before, if more than the spread
  trm bench demo --compare torch                                the PyTorch twin in turns with it (from a checkout)
  trm bench arc_transformer --compare torch                     training and writing; arc_transformer_small on a CPU
  trm bench baseline_768 --floor h200                           the least time of a step by part; nothing is run
  trm bench --floor h200 a100 v4-8                              of all shapes on several devices
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from trm_jax.cli import arguments as cli
from trm_jax.cli.plan import amount, print_table
from trm_jax.errors import InputError

SMALL = {"train.batch_size": 32, "eval.batch_size": 32, "model.dtype": "float32"}  # baseline's, on a CPU
_COLUMNS = ("", "rows", "median", "quartiles", "n", "floor", "of\nproduct", "MFU", "a second", "memory", "compiled\nin")
_PARTS = ("", "GFLOP", "MB,\nkernels apart", "MB,\nblocks fused", "ms,\napart", "ms,\nfused", "bound by")


def add_parser(subparsers) -> None:
    parser = cli.add_documented(subparsers, "bench", run, __doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="experiments, or attention_768")
    parser.add_argument("--minutes", type=amount, default=8.0, help="for everything (default: 8)")
    parser.add_argument("--compare", choices=["torch"], help="measure the PyTorch twin as well")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument("--against", type=Path, metavar="FILE", help="compare with an earlier --json")
    parser.add_argument("--floor", nargs="+", metavar="DEVICE", help="only the floor on devices of `trm plan`")
    cli.add_set(parser)


def run(args) -> int:
    from trm_jax.bench import against
    from trm_jax.bench.shapes import DEFAULT, ON_CPU, shape

    if args.json and not args.json.absolute().parent.is_dir():
        raise InputError(f"--json {args.json}: there is no folder {args.json.parent}; make it first")
    if args.floor:
        return _floors([shape(name, cli.changes(args)) for name in args.names or DEFAULT], args.floor)
    before = against.read(args.against) if args.against else None
    import jax

    from trm_jax.bench import suite

    tell = lambda line: print(line, file=sys.stderr)  # noqa: E731
    on_cpu = jax.default_backend() == "cpu"
    if args.names or not on_cpu:
        names = args.names or DEFAULT
        for name in ON_CPU.keys() & set(names) if on_cpu else ():
            tell(f"note: {name} is too large for a CPU; {ON_CPU[name]} stands for it")
        names = dict.fromkeys(ON_CPU.get(name, name) if on_cpu else name for name in names)
        configs = [shape(name, cli.changes(args)) for name in names]
    else:
        configs = [shape("demo", cli.changes(args)), shape("baseline", {**SMALL, **cli.changes(args)})]
    if args.compare:
        suite.require_twin(configs)
    what = [kind for kind in suite.WHAT if kind not in suite.TWINS or args.compare]
    results = {"command": args.typed, "minutes": args.minutes}

    def keep(found: dict) -> None:
        results.update(found)
        if args.json:
            args.json.write_text(json.dumps(results, indent=1) + "\n")

    say = lambda line: tell(f"measuring {line}")  # noqa: E731
    keep(suite.run(configs, 60 * args.minutes, what=what, say=say, keep=keep))
    show(results)
    if before:
        compare(results, before, str(args.against))
    return 0


def seconds(value: float) -> str:
    """'1.23 s', '45.6 ms'."""
    for unit, scale in (("s", 1), ("ms", 1e-3), ("us", 1e-6)):
        if value >= scale or unit == "us":
            return f"{value / scale:.3g} {unit}"
    raise AssertionError


def show(results: dict) -> None:
    """The table a person reads."""
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    cores = f"{results['cores']} cores of " if results["platform"] == "cpu" else f"{results['devices']} x "
    print(f"{cores}{results['device']}; {versions}")
    for name, rate in results["rates"].items():
        what, unit = ("copying memory", "GB/s") if name == "copy" else (f"a large {name} product", "GFLOP/s")
        low, high = rate["q1"] / 1e9, rate["q3"] / 1e9
        print(f"{what}: {rate['median'] / 1e9:,.1f} {unit} (quartiles {low:,.1f} to {high:,.1f}, n = {rate['n']})")
    rows = []
    for name, kinds in results["runs"].items():
        rows.append([name])
        rows += [["  " + kind, *_cells(figure)] for kind, figure in kinds.items()]
    print_table(_COLUMNS, rows)
    for name, kinds in results["runs"].items():
        for kind, figure in kinds.items():
            if "error" in figure:
                print(f"note: {name}, {kind}: {figure['error']}")
            if figure.get("accumulation", 1) > 1:
                print(f"note: {name}, {kind}: the batch is taken in {figure['accumulation']} parts, to fit")
    if results["left_out"]:
        print(f"left out for want of time (--minutes): {'; '.join(results['left_out'])}")


def _cells(figure: dict) -> list[str]:
    if "seconds" not in figure:
        return ["", "failed"]
    s = figure["seconds"]
    share = lambda name: f"{figure[name]:.0%}" if name in figure else ""  # noqa: E731
    return [
        f"{figure['rows']:,}" if "rows" in figure else "",
        seconds(s["median"]),
        f"{seconds(s['q1'])} - {seconds(s['q3'])}" if s["n"] >= 3 else "",
        str(s["n"]),
        seconds(figure["floor_s"]) if "floor_s" in figure else "",
        share("of_product"),
        share("mfu"),
        next((f"{figure[of] / s['median']:,.0f} {of}" for of in ("tokens", "rows") if of in figure), ""),
        f"{figure['program_bytes'] / 1e6:,.0f} MB" if "program_bytes" in figure else "",
        seconds(figure["compile_s"]) if "compile_s" in figure else "",
    ]


def compare(results: dict, before: dict, where: str) -> None:
    """What changed since an earlier run of the command."""
    from trm_jax.bench.against import changes

    if results["device"] != before["device"]:
        print(f"note: {where} is of another device: {before['device']}")
    rows = [
        [change.run, change.kind, seconds(change.before), seconds(change.now),
         f"{change.before / change.now:.2f} x as fast", change.verdict or "within the spread"]
        for change in changes(results, before)
    ]  # fmt: skip
    print_table(("", "", f"in {where}", "now", "", ""), rows, words=(0, 1, 5))


def _floors(configs: list, names: list[str]) -> int:
    """The least time of a training step, from formulas and data sheets: by part on one device, in all on several."""
    from trm_jax.bench.shapes import dtype
    from trm_jax.planning import find
    from trm_jax.planning.floor import Rates, apart, floor, step_parts
    from trm_jax.planning.hardware import SOURCE

    rates = {device.name: Rates.of(device) for device in map(find, names)}
    for name, rate in rates.items():
        print(f"{name}: {rate.flops / 1e12:g} TFLOP/s in bfloat16, {rate.bytes / 1e12:g} TB/s ({SOURCE})")
    ms = lambda seconds: f"{1e3 * seconds:,.{1 if seconds < 1 else 0}f}"  # noqa: E731
    if len(rates) > 1:
        print("\nms of a training step, every kernel apart / each block fused (the floor)")
        totals = lambda cfg, rate: (ms(sum(limit(cfg, rate).values())) for limit in (apart, floor))  # noqa: E731
        rows = [
            [cfg.name, f"{cfg.train.batch_size:,}", *(" / ".join(totals(cfg, rate)) for rate in rates.values())]
            for cfg in configs
        ]
        print_table(("", "batch", *rates), rows)
        return 0
    for cfg in configs:
        parts, alone, least = step_parts(cfg), apart(cfg, rate), floor(cfg, rate)
        moved = {name: (part.step_bytes, part.step_bytes - part.fusible) for name, part in parts.items()}
        rows = [
            [name, f"{part.flops / 1e9:,.0f}", *(f"{one / 1e6:,.0f}" for one in moved[name]), ms(alone[name]),
             ms(least[name]), " / ".join("FLOPs" if part.flops / rate.flops > one / rate.bytes else "memory" if one
                                         else "-" for one in moved[name])]
            for name, part in parts.items()
        ]  # fmt: skip
        flops = sum(part.flops for part in parts.values())
        whole, fused = sum(alone.values()), sum(least.values())
        sums = (sum(one[i] for one in moved.values()) for i in (0, 1))
        share = " / ".join(f"{flops / rate.flops / one:.0%}" for one in (whole, fused))
        rows.append(["all", f"{flops / 1e9:,.0f}", *(f"{one / 1e6:,.0f}" for one in sums), ms(whole), ms(fused),
                     f"MFU {share}"])  # fmt: skip
        print(f"\n{cfg.name}, batch {cfg.train.batch_size:,}, {dtype(cfg)}: a training step")
        print_table(_PARTS, rows, words=(0, 6))
    return 0
