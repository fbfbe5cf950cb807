"""The search of `trm eval`: its options, its table, its picture and its record."""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
import time
from collections.abc import Mapping
from contextlib import closing

import numpy as np

from trm_jax.cli.arguments import command, positive
from trm_jax.cli.plan import print_table
from trm_jax.errors import InputError
from trm_jax.storage.paths import AnyPath, append_line, json_lines


def depths(text: str) -> tuple[int, ...]:
    """An argument of ascending numbers of steps."""
    found = tuple(positive(part) for part in text.split(","))
    if list(found) != sorted(set(found)):
        raise argparse.ArgumentTypeError(f"{text!r} does not ascend; give each depth once, the smallest first")
    return found


def strength(text: str) -> float:
    value = float(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is no standard deviation; give 0 or more")
    return value


def add_options(parser) -> None:
    group = parser.add_argument_group("a search over several rollouts of each puzzle")
    group.add_argument("--rollouts", type=positive, metavar="B", help="how many (1)")
    text = "standard deviation of noise on a latent before every supervision step (0)"
    group.add_argument("--noise", type=strength, default=0.0, metavar="S", help=text)
    text = "which latents it is on (default: the one that answers are read from)"
    group.add_argument("--noise-on", choices=("z_H", "z_L", "both"), help=text)
    text = "none before the last step of the largest depth; smaller depths of the same search have theirs"
    group.add_argument("--last-quiet", action="store_true", help=text)
    text = "every rollout but the first sees the puzzle in another form, and its answer is turned back"
    group.add_argument("--symmetries", action="store_true", help=text)
    text = "the selection of the score that is printed last; all are in the table (q; eqr: residual)"
    group.add_argument("--select", choices=("q", "vote", "residual", "valid", "any"), help=text)


def asked(args) -> bool:
    """Whether the command line asks for a search. Raises InputError for options that do not go together."""
    options = {
        "--rollouts": args.rollouts,
        "--noise": args.noise,
        "--symmetries": args.symmetries,
        "--select": args.select,
        "--steps with several depths": len(args.steps) > 1,
    }
    given = [name for name, value in options.items() if value]
    others = {"--checkpoints": args.checkpoints, "--drafts": args.drafts}
    for name in (name for name, value in others.items() if value and given):
        raise InputError(f"{name} does not go with {given[0]}; leave one of them out")
    for name in (name for name, value in (("--noise-on", args.noise_on), ("--last-quiet", args.last_quiet)) if value):
        if not args.noise:
            raise InputError(f"{name} says where noise goes, and there is none; add --noise 0.3")
    if args.select and not args.rollouts:
        raise InputError(f"--select {args.select} chooses among rollouts; add --rollouts 8")
    return bool(given)


def score(args, opened, data, meter) -> int:
    """Search with an opened run on a task's `EvalSource`; print, draw and record what each selection scores."""
    from trm_jax.evals import search
    from trm_jax.evals.runner import added
    from trm_jax.reports.statistics import wilson
    from trm_jax.train.progress import Progress, duration

    cfg, headline = opened.cfg, opened.cfg.task.headline
    how = {"noise": args.noise, "noise_on": args.noise_on or "", "last_quiet": args.last_quiet}
    how |= {"symmetries": args.symmetries, "seed": cfg.seed}
    steps = args.steps or (getattr(cfg.model, "halt_max_steps", 1),)
    plan = search.Search(steps, args.rollouts or 1, **how)
    chosen = args.select or search.usual(cfg)
    if chosen not in search.selections(cfg):
        raise InputError(f"--select {chosen}: this task does not tell a valid answer without its label")
    searcher = search.Searcher(cfg, data, opened.mesh, plan)
    began, kept = time.monotonic(), _Kept(args.run_dir, opened, data.digest, plan)
    if kept.batches:
        print(f"going on: {len(kept.batches):,} of {searcher.batches:,} batches are in {kept.file}", file=sys.stderr)
    with closing(Progress(f"search {args.run_dir.name}", searcher.batches * searcher.pieces)) as progress:
        progress.start(len(kept.batches) * searcher.pieces)

        def on_piece(done: int) -> None:
            meter.tick()
            progress.step(len(kept.batches) * searcher.pieces + done)

        for index in range(searcher.batches):
            if index not in kept.batches:
                kept.add(index, searcher.batch(opened.params, index, on_piece))
        progress.step(searcher.batches * searcher.pieces)
    sums, seconds = added([kept.batches[index] for index in range(searcher.batches)]), time.monotonic() - began
    if not sums["count"]:
        raise InputError("the answers to these puzzles are not known, so no selection has a score")
    rows, count = search.table(cfg, plan, sums), int(sums["count"])
    print(f"checkpoint {opened.step} of {args.run_dir}, {opened.weights} weights: {_made(cfg, plan)}")
    for row in rows:
        row["interval"] = wilson(row[chosen], count)
    _print(rows, chosen, search.selections(cfg))
    picture = _draw(args.run_dir, rows, search.selections(cfg), headline)
    if picture:
        print(f"picture: {picture}")
    last = rows[-1]
    record = {"kind": "search", "step": opened.step, "weights": opened.weights, "eval_set": data.digest, **how}
    record |= {"noise_on": search.noisy(cfg.family, plan.noise_on) if args.noise else [], "count": count}
    record |= {"headline": headline, "select": chosen, "score": last[chosen], "seconds": round(seconds, 3)}
    append_line(args.run_dir / "evals.jsonl", json.dumps(record | {"table": rows}))
    kept.file.unlink(missing_ok=True)
    bound = " (upper bound: any rollout right)" if chosen == "any" else f" by {chosen}" * (plan.rollouts > 1)
    low, high = last["interval"]
    print(f"{headline.replace('_', ' '):<17}{last[chosen]:.4f}{bound}  [{low:.4f}, {high:.4f}]  on {count} puzzles; "
          f"{last['calls']:,} calls of nets a puzzle, {duration(seconds)} in all")  # fmt: skip
    print(f"next: {command('solve', args.run_dir, 'PUZZLE', '--steps', steps[-1])}", file=sys.stderr)
    return 0


class _Kept:
    """Sums of the batches that were searched, kept in RUN/search-*.jsonl: a search that was stopped goes on there."""

    def __init__(self, run_dir: AnyPath, opened, digest: str, plan):
        cfg = opened.cfg
        how = f"{opened.weights} {digest} {plan} {cfg.model} {cfg.eval} {sorted(opened.mesh.shape.items())}"
        self.file = run_dir / f"search-{opened.step}-{hashlib.sha256(how.encode()).hexdigest()[:8]}.jsonl"
        self.batches: dict[int, dict] = {one["batch"]: one["sums"] for _, one in json_lines(self.file)}

    def add(self, index: int, sums: Mapping) -> None:
        self.batches[index] = {name: np.float64(value).tolist() for name, value in sums.items()}
        append_line(self.file, json.dumps({"batch": index, "sums": self.batches[index]}))


def _made(cfg, plan) -> str:
    """What was searched, in words."""
    from trm_jax.evals.search import noisy, random

    said = f"{plan.rollouts} rollout{'s' * (plan.rollouts > 1)} of {plan.depths[-1]} supervision steps"
    if plan.noise:
        said += f", noise {plan.noise:g} on {', '.join(noisy(cfg.family, plan.noise_on))}"
        said += " but before the last step" * plan.last_quiet
    return said + ", random starts" * random(cfg.family) + ", in different forms" * plan.symmetries


def _print(rows: list[dict], chosen: str, selections: tuple[str, ...]) -> None:
    """A line for each depth and breadth."""
    if rows[-1]["rollouts"] == 1:  # every selection is of the same answer
        selections = ()
    of_valid = ("abstained", "where_valid") if "valid" in selections else ()
    columns = (*selections, *of_valid) or (chosen,)
    names = {"any": "any (upper bound)", "where_valid": "where valid"} | ({} if selections else {chosen: "score"})

    def cells(row):
        scores = ("-" if row[name] is None else f"{row[name]:.4f}" for name in columns)
        low, high = row["interval"]
        return str(row["steps"]), str(row["rollouts"]), *scores, f"{low:.4f}-{high:.4f}", f"{row['calls']:,}"

    of_chosen = f"95% of {chosen}" if selections else "95%"
    headings = ("steps", "rollouts", *(names.get(name, name) for name in columns), of_chosen, "calls a puzzle")
    print_table(headings, [cells(row) for row in rows], words=())


def _draw(run_dir, rows: list[dict], selections: tuple[str, ...], headline: str):
    """The picture's path: the scores over depth at full breadth, and over breadth at full depth; None for one row."""
    from trm_jax.reports.content import Panel, Series
    from trm_jax.reports.pictures import panels_png
    from trm_jax.tasks.pictures import write_picture

    last, panels = rows[-1], []
    for over, fixed, what in (("steps", "rollouts", "supervision steps"), ("rollouts", "steps", "rollouts")):
        points = [row for row in rows if row[fixed] == last[fixed]]
        if len(points) == 1:
            continue
        x = [row[over] for row in points]
        ticks = tuple((value, str(value)) for value in x)
        labels = {name: "any (upper bound)" if name == "any" else name for name in selections}
        if last["rollouts"] == 1:
            labels = {selections[0]: ""}
        series = [
            Series(label, x, [row[name] for row in points], style="joined", color=color)
            for color, (name, label) in enumerate(labels.items())
        ]
        at = f"{last[fixed]} {'rollout' if fixed == 'rollouts' else 'step'}{'s' * (last[fixed] > 1)}"
        panels.append(Panel(f"over {what}, {at}", what, headline.replace("_", " "), tuple(series), "log2", ticks=ticks))
    if not panels:
        return None
    path = run_dir / "search.png"
    write_picture(path, ".png", panels_png(panels, run_dir.name))
    return path
