"""The records of compiled runs (`figures.figures`) as lines, as a table and as a page of markdown."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence

from trm_jax.aot.compile import versions
from trm_jax.planning.hardware import SOURCE, Device

ASSUMPTIONS = (
    "training holds the evaluation's code, and evaluation the training's state and code",
    "compute: analytic matmul FLOPs at the bfloat16 peak of the data sheet; what is computed again, and all that is "
    "no product, is left out",
    "memory: bytes between a chip and its main memory, counted in the compiled program without the padding of tiles, "
    "at the data sheet's bandwidth",
    "links: what a chip must send at least ((n - 1)/n of an array, twice for an all-reduce) over all links of the "
    "chip that has the fewest, at full rate; latency is left out",
    "a step takes the longest of the three, as if each overlapped the others: a lower bound, not a forecast",
    "scaling efficiency: the longer of compute and memory, as a share of it and the links' time together, as if "
    "nothing else were done while the chips talk; waiting for the slowest chip or host is left out",
    "hours are steps and evaluation batches at that time; compilation, data, checkpoints and start-up come on top",
    "a loop whose length the compiled program does not say is counted once",
)
# What a terminal has no room for.
WIDE = {"steps", "arguments\nGB a chip", "temporaries\nGB a chip", "memory\nGB", "step\nms", "scaling\nefficiency"}


def short(figure: float) -> str:
    """Three digits: 0.0123, 4.56, 789, 12,345."""
    return f"{figure:.3g}" if figure < 999.5 else f"{figure:,.0f}"


def _giga(size: int) -> str:
    return short(size / 1e9)


def table(runs: Sequence[dict]) -> list[dict[str, str]]:
    """{heading: cell} for each run that could be compiled: its figures and those of its last training step."""
    return [_cells(run, run["programs"][-2]) for run in runs if "train_bytes" in run]


def _cells(run: dict, step: dict) -> dict[str, str]:
    sent = {kind: total["bytes"] for kind, total in step["collectives_by_kind"].items()}
    in_loops = sum(total["bytes_in_loops"] for total in step["collectives_by_kind"].values())
    others = [f"{kind} {short(size / 1e6)}" for kind, size in sent.items() if kind != "all-reduce"]
    return {
        "run": run["name"],
        "steps": f"{run['steps']:,}",
        "arguments\nGB a chip": _giga(step["memory_bytes"]["arguments"]),
        "temporaries\nGB a chip": _giga(step["memory_bytes"]["temporaries"]),
        "training\nGB a chip": _giga(run["train_bytes"]),
        "evaluation\nGB a chip": _giga(run["eval_bytes"]),
        "all-reduce\nMB a step": short(sent.get("all-reduce", 0) / 1e6),
        "other\nMB": ", ".join(others) or "0",
        "from\nloops": f"{in_loops / sum(sent.values()):.0%}" if sent else "-",
        "FLOPs\na step": f"{step['flops']:.2e}",
        "memory\nGB": _giga(step["traffic_bytes"]),
        **{f"{part}\nms": short(1e3 * seconds) for part, seconds in step["roofline_seconds"].items()},
        "bound by": step["bound_by"],
        "scaling\nefficiency": f"{step['efficiency_without_overlap']:.1%}",
        "training\nhours": short(run["train_hours"]),
        "evaluations\nhours": short(run["eval_hours"]),
        "fits": "yes" if run["fits"] else "no",
    }


def head(topology: Device) -> list[str]:
    """What the figures are of: the slice, the compiler."""
    made = {**versions(), "trm_jax": importlib.metadata.version("trm_jax")}
    usable, links = topology.usable_bytes, f"; {topology.links} links of {topology.link_gb_s:g} GB/s in each direction "
    return [
        f"{topology.title}: {topology.chips} chip{'s' * (topology.chips > 1)}, {'x'.join(map(str, topology.shape))}, "
        f"on {topology.hosts} host{'s' * (topology.hosts > 1)}; a program may use {usable / 1e9:.1f} GB "
        f"({usable / 2**30:g} GiB) of a chip; {topology.peak_tflops:g} TFLOP/s, {topology.bandwidth_tb_s:g} TB/s "
        f"({SOURCE})" + (f"{links}({topology.link_source})" if topology.links else ""),
        "compiled, not run: " + ", ".join(f"{name} {version}" for name, version in made.items()),
    ]


def notes(runs: Sequence[dict], aliases: Mapping[str, Sequence[str]]) -> list[str]:
    """Lines below the table: the stages of curricula but the last, other names of runs, what does not fit."""
    stages = [(run["name"], one) for run in runs for one in run["programs"][:-2] if one["memory_bytes"]]
    return [
        *(
            f"{name} at L {one['cycles'][0]}, H {one['cycles'][1]}: {_giga(one['memory_bytes']['temporaries'])} GB of "
            f"temporaries, {one['flops']:.2e} FLOPs, {short(1e3 * one['roofline_seconds']['step'])} ms a step"
            for name, one in stages
        ),
        *(f"{name} is also {', '.join(others)}" for name, others in aliases.items()),
        *(f"note: {run['name']}: {run['problem']}" for run in runs if run["problem"]),
    ]


def markdown(runs: Sequence[dict], topology: Device, aliases: Mapping[str, Sequence[str]], command: str) -> str:
    """A page: what the figures are of, the table, what they take for granted, what does not fit."""
    rows = table(runs)
    headings = [heading.replace("\n", " ") for heading in rows[0]] if rows else []
    lines = [headings, ["---", *["---:"] * (len(headings) - 1)], *(row.values() for row in rows)] if rows else []
    parts = [
        [f"# Compiled for {topology.name}"],
        [f"Made by `{command}`."],
        [f"- {line}" for line in head(topology)],
        [f"| {' | '.join(line)} |" for line in lines],
        [f"- {line}" for line in notes(runs, aliases)],
        ["What the figures take for granted:"],
        [f"- {line}" for line in ASSUMPTIONS],
    ]
    return "\n\n".join("\n".join(part) for part in parts if part) + "\n"
