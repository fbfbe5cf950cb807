"""What a run's compiled programs say about the run: memory, whether it fits, what to do, time at best; as a record, a
table and a page of markdown."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence

from trm_jax.aot.compile import versions
from trm_jax.aot.programs import Program, cycles_of, rows_of, run_stages
from trm_jax.planning import Device, memory, work
from trm_jax.planning.hardware import SOURCE
from trm_jax.train.config import RunConfig
from trm_jax.train.memory import state_bytes

_NAMES = {"train": "training", "eval": "evaluation"}
ASSUMPTIONS = (
    "training holds the evaluation's code, and evaluation the training's state and code",
    "compute: analytic matmul FLOPs at the data sheet's bfloat16 peak; nothing computed again, nothing but products",
    "memory: bytes to and from main memory, counted in the program without the padding of tiles, at full bandwidth",
    "links: what a chip must send at least, over all links of the chip that has the fewest, at full rate, no latency",
    "a step takes the longest of the three, as if each overlapped the others: a lower bound, not a forecast",
    "scaling efficiency: the longer of compute and memory, as a share of it and the links' time, as if none overlapped",
    "hours are steps and evaluation batches at that time; compilation, data, checkpoints and start-up come on top",
    "a loop whose length the compiled program does not say is counted once",
)
# What a terminal has no room for.
WIDE = {"steps", "arguments\nGB a chip", "temporaries\nGB a chip", "memory\nGB", "step\nms", "scaling\nefficiency"}


def figures(name: str, cfg: RunConfig, topology: Device, compiled: Mapping[Program, dict]) -> dict:
    """The record of a run on a slice, as `trm compile --json` writes it: bytes of one chip, FLOPs of all together,
    seconds at best.

    compiled: what became of its programs, in the order of `programs_of`. Where all could be compiled the record holds
    "train_bytes", "eval_bytes", "train_hours" and "eval_hours" too.
    """
    programs, found = [_program(cfg, topology, *pair) for pair in compiled.items()], work(cfg)
    complete = all(one["memory_bytes"] for one in programs)
    needed = _needed(programs) if complete else {}
    problem = _problem(cfg, topology, programs, needed)
    return {
        "name": name,
        "topology": topology.name,
        "versions": versions(),
        "steps": found.steps,
        "train_flops": found.train_flops,
        "eval_flops": found.eval_flops,
        "fits": not problem,
        "problem": problem,
        **{f"{kind}_bytes": size for kind, size in needed.items()},
        **(_hours(cfg, dict(zip(compiled, programs, strict=True))) if complete else {}),
        "programs": programs,
    }


def _program(cfg: RunConfig, topology: Device, program: Program, compiled: dict) -> dict:
    """One program: its batch, its analytic FLOPs of one execution, what became of it, seconds of its roofline."""
    kind, model = program
    rows = rows_of(cfg, kind, memory.abstract_mesh(cfg, topology.chips))
    flops = rows * cfg.family.flops(model)[kind == "eval"]
    record = {"kind": kind, "cycles": cycles_of(model), "batch_rows": rows, "flops": flops, **compiled}
    if not compiled["memory_bytes"]:
        return record
    sent = sum(total["sent_bytes"] for total in compiled["collectives_by_kind"].values())
    best = {
        "compute": flops / topology.chips / (topology.peak_tflops * 1e12),
        "memory": compiled["traffic_bytes"] / (topology.bandwidth_tb_s * 1e12),
        "links": sent / (topology.links * topology.link_gb_s * 1e9) if sent else 0.0,
    }
    busy = max(best["compute"], best["memory"])
    return record | {
        "roofline_seconds": best | {"step": max(best.values())},
        "bound_by": max(best, key=best.get),
        # The share of the time left for work if nothing else is done while the devices talk.
        "efficiency_without_overlap": busy / (busy + best["links"]),
    }


def _needed(programs: list[dict]) -> dict[str, int]:
    """Bytes of one chip while it trains: the step that needs most, and the code of the evaluation; and while it
    evaluates: the state of training and its code stay where they are."""
    *stages, evaluation = [one["memory_bytes"] for one in programs]
    own = evaluation["outputs"] + evaluation["temporaries"] + evaluation["code"]
    return {
        "train": max(one["total"] for one in stages) + evaluation["code"],
        "eval": stages[-1]["arguments"] + stages[-1]["code"] + own,
    }


def _hours(cfg: RunConfig, programs: dict[Program, dict]) -> dict[str, float]:
    """Of all updates and of all evaluations at their rooflines."""
    seconds = {program: one["roofline_seconds"]["step"] for program, one in programs.items()}
    stages, found, evaluation = run_stages(cfg), work(cfg), ("eval", cfg.model)
    ends = [first for first, _ in stages[1:]] + [found.steps]
    training = sum((end - first) * seconds["train", model] for (first, model), end in zip(stages, ends, strict=True))
    last, before = (
        -(-puzzles // programs[evaluation]["batch_rows"])
        for puzzles in (found.eval_puzzles, found.eval_puzzles_before_end)
    )
    batches = (found.evaluations - 1) * before + last
    scored = 1 + len(cfg.optim.other_decays)  # every averaged set of weights is evaluated
    evaluating = scored * batches * seconds[evaluation]
    return {"train_hours": training / 3600, "eval_hours": evaluating / 3600}


def _problem(cfg: RunConfig, topology: Device, programs: list[dict], needed: dict[str, int]) -> str:
    """Why the run cannot be as it is, and what to do; empty for one that fits. needed: of a run that was compiled."""
    for one in programs:
        if one["crash"]:
            return f"{_NAMES[one['kind']]} was not compiled: {one['crash']}"
    sizes = {one["kind"]: one["overflow_bytes"] for one in programs if one["overflow_bytes"]}
    sizes = sizes or {kind: (size, topology.usable_bytes) for kind, size in needed.items()}
    kind, (size, there) = max(sizes.items(), key=lambda pair: pair[1][0])
    if size <= there:
        return ""
    said = f"{_NAMES[kind]} needs {size / 1e9:.1f} GB a chip and {topology.name} has {there / 1e9:.1f} for it: "
    mesh = memory.abstract_mesh(cfg, topology.chips)
    if kind == "eval":
        rows = programs[-1]["batch_rows"] // 2 // mesh.size * mesh.size
        return said + (f"set eval.batch_size={rows}, which scores the same" if rows else "take more chips")
    state, parts = state_bytes(cfg, mesh), cfg.train.accumulation
    return said + memory.remedy(cfg, mesh, lambda more: state + (size - state) * parts / more, there)


def short(figure: float) -> str:
    """Three digits: 0.0123, 4.56, 789, 12,345."""
    return f"{figure:.3g}" if figure < 999.5 else f"{figure:,.0f}"


def table(runs: Sequence[dict]) -> list[dict[str, str]]:
    """{heading: cell} for each run that could be compiled: its figures and those of its last training step."""
    rows = []
    for run in (run for run in runs if "train_bytes" in run):
        *_, step, _ = run["programs"]
        sent = {kind: total["bytes"] for kind, total in step["collectives_by_kind"].items()}
        in_loops = sum(total["bytes_in_loops"] for total in step["collectives_by_kind"].values())
        others = [f"{kind} {short(size / 1e6)}" for kind, size in sent.items() if kind != "all-reduce"]
        row = {
            "run": run["name"],
            "steps": f"{run['steps']:,}",
            **{f"{part}\nGB a chip": short(step["memory_bytes"][part] / 1e9) for part in ("arguments", "temporaries")},
            "training\nGB a chip": short(run["train_bytes"] / 1e9),
            "evaluation\nGB a chip": short(run["eval_bytes"] / 1e9),
            "all-reduce\nMB a step": short(sent.get("all-reduce", 0) / 1e6),
            "other\nMB": ", ".join(others) or "0",
            "from\nloops": f"{in_loops / sum(sent.values()):.0%}" if sent else "-",
            "FLOPs\na step": f"{step['flops']:.2e}",
            "memory\nGB": short(step["traffic_bytes"] / 1e9),
            **{f"{part}\nms": short(1e3 * seconds) for part, seconds in step["roofline_seconds"].items()},
            "bound by": step["bound_by"],
            "scaling\nefficiency": f"{step['efficiency_without_overlap']:.1%}",
            "training\nhours": short(run["train_hours"]),
            "evaluations\nhours": short(run["eval_hours"]),
            "fits": "yes" if run["fits"] else "no",
        }
        rows.append(row)
    return rows


def head(topology: Device) -> list[str]:
    """What the figures are of: the slice, the compiler."""
    made = {**versions(), "trm_jax": importlib.metadata.version("trm_jax")}
    links = f"; {topology.links} links of {topology.link_gb_s:g} GB/s in each direction ({topology.link_source})"
    chip = f"{topology.usable_bytes / 1e9:.1f} GB ({topology.usable_gib:g} GiB) of a chip"
    rates = (
        f"{topology.peak_tflops:g} TFLOP/s, {topology.bandwidth_tb_s:g} TB/s ({SOURCE}){links * (topology.links > 0)}"
    )
    return [
        f"{topology.title}: {topology.chips} chip{'s' * (topology.chips > 1)}, {'x'.join(map(str, topology.shape))}, "
        f"on {topology.hosts} host{'s' * (topology.hosts > 1)}; a program may use {chip}; {rates}",
        "compiled, not run: " + ", ".join(f"{name} {version}" for name, version in made.items()),
    ]


def notes(runs: Sequence[dict], aliases: Mapping[str, Sequence[str]]) -> list[str]:
    """Lines below the table: other names of runs, what does not fit."""
    same = [f"{name} is also {', '.join(others)}" for name, others in aliases.items()]
    return same + [f"note: {run['name']}: {run['problem']}" for run in runs if run["problem"]]


def markdown(runs: Sequence[dict], topology: Device, aliases: Mapping[str, Sequence[str]], command: str) -> str:
    """A page: what the figures are of, the table, what they take for granted, what does not fit."""
    rows, lines = table(runs), []
    if rows:
        headings = [heading.replace("\n", " ") for heading in rows[0]]
        lines = [headings, ["---", *["---:"] * (len(headings) - 1)], *(row.values() for row in rows)]
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
