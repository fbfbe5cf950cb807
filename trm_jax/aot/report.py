"""The records of compiled runs (`figures.figures`) as lines, as a table and as a page of markdown."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence

from trm_jax.aot.compile import versions
from trm_jax.planning import Device

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
)


def short(figure: float) -> str:
    """Three digits: 0.0123, 4.56, 789, 12,345."""
    return f"{figure:.3g}" if figure < 999.5 else f"{figure:,.0f}"


def _giga(size: int) -> str:
    return short(size / 1e9)


def _milli(part: str):
    return lambda run, step: short(1e3 * step["roofline_seconds"][part])


def _collectives(step: dict, key: str, kinds: Sequence[str] = ()) -> int:
    found = step["collectives_by_kind"]
    return sum(found[kind][key] for kind in kinds or found if kind in found)


def _others(step: dict) -> str:
    found = {kind: total["bytes"] for kind, total in step["collectives_by_kind"].items() if kind != "all-reduce"}
    return ", ".join(f"{kind} {short(size / 1e6)}" for kind, size in found.items()) or "0"


def _in_loops(step: dict) -> str:
    whole = _collectives(step, "bytes")
    return f"{_collectives(step, 'bytes_in_loops') / whole:.0%}" if whole else "-"


# {heading: a cell's text, from a run's record and that of its last training step}.
COLUMNS = {
    "run": lambda run, step: run["name"],
    "steps": lambda run, step: f"{run['steps']:,}",
    "arguments\nGB a chip": lambda run, step: _giga(step["memory_bytes"]["arguments"]),
    "temporaries\nGB a chip": lambda run, step: _giga(step["memory_bytes"]["temporaries"]),
    "training\nGB a chip": lambda run, step: _giga(run["train_bytes"]),
    "evaluation\nGB a chip": lambda run, step: _giga(run["eval_bytes"]),
    "all-reduce\nMB a step": lambda run, step: short(_collectives(step, "bytes", ["all-reduce"]) / 1e6),
    "other\nMB": lambda run, step: _others(step),
    "from\nloops": lambda run, step: _in_loops(step),
    "FLOPs\na step": lambda run, step: f"{step['flops']:.2e}",
    "memory\nGB": lambda run, step: _giga(step["traffic_bytes"]),
    "compute\nms": _milli("compute"),
    "memory\nms": _milli("memory"),
    "links\nms": _milli("links"),
    "step\nms": _milli("step"),
    "bound by": lambda run, step: step["bound_by"],
    "scaling\nefficiency": lambda run, step: f"{step['efficiency_without_overlap']:.1%}",
    "training\nhours": lambda run, step: short(run["train_hours"]),
    "evaluations\nhours": lambda run, step: short(run["eval_hours"]),
    "fits": lambda run, step: "yes" if run["fits"] else "no",
}
_OF_ANY_RUN = ("run", "steps", "fits")  # compiled or not
_ON_PAGES = ("steps", "arguments\nGB a chip", "temporaries\nGB a chip", "memory\nGB", "step\nms", "scaling\nefficiency")
NARROW = [heading for heading in COLUMNS if heading not in _ON_PAGES]  # what a terminal has room for


def cells(run: dict) -> dict[str, str]:
    """One row: a text for each of COLUMNS."""
    *_, step, _ = run["programs"]
    complete = all(one["memory_bytes"] for one in run["programs"])
    row = {heading: cell(run, step) if complete or heading in _OF_ANY_RUN else "-" for heading, cell in COLUMNS.items()}
    for one in run["programs"]:
        if one["overflow_bytes"]:
            what = "training" if one["kind"] == "train" else "evaluation"
            row[f"{what}\nGB a chip"] = _giga(one["overflow_bytes"][0])
    return row


def head(topology: Device) -> list[str]:
    """What the figures are of: the slice, the compiler."""
    made = {**versions(), "trm_jax": importlib.metadata.version("trm_jax")}
    usable, links = topology.usable_bytes, f"; {topology.links} links of {topology.tpu.link_gb_s:g} GB/s in each "
    return [
        f"{topology.title}: {topology.chips} chip{'s' * (topology.chips > 1)}, {'x'.join(map(str, topology.shape))}, "
        f"on {topology.hosts} host{'s' * (topology.hosts > 1)}; a program may use {usable / 1e9:.1f} GB "
        f"({usable / 2**30:g} GiB) of a chip; {topology.peak_tflops:g} TFLOP/s, {topology.bandwidth_tb_s:g} TB/s "
        f"({topology.source})" + (f"{links}direction ({topology.tpu.link_source})" if topology.links else ""),
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


def assumptions(runs: Sequence[dict]) -> list[str]:
    """What the figures take for granted, for these runs."""
    unknown = any(one["unknown_loops"] for run in runs for one in run["programs"])
    return [*ASSUMPTIONS, *["a loop whose length the compiled program does not say is counted once"] * unknown]


def markdown(runs: Sequence[dict], topology: Device, aliases: Mapping[str, Sequence[str]], command: str) -> str:
    """A page: what the figures are of, the table, what they take for granted, what does not fit."""
    headings = [heading.replace("\n", " ") for heading in COLUMNS]
    rows = [headings, ["---", *["---:"] * (len(COLUMNS) - 1)], *(cells(run).values() for run in runs)]
    below = [f"- {line}" for line in notes(runs, aliases)]
    lines = [
        *(f"# Compiled for {topology.name}", "", f"Made by `{command}`.", ""),
        *(f"- {line}" for line in head(topology)),
        "",
        *(f"| {' | '.join(row)} |" for row in rows),
        "",
        *(below + [""] if below else []),
        *("What the figures take for granted:", ""),
        *(f"- {line}" for line in assumptions(runs)),
    ]
    return "\n".join(lines) + "\n"
