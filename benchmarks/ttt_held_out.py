"""What training for each task adds to a model on the tasks' own demonstrations: the last one of each is held out.

Of a set the tasks with at least three demonstrations are taken whose demonstrations have the fewest cells. The last one
of each is kept from training and prompts, and asked as a test input: no answer to a test input is read. MARC's and
NVARC's recipes answer without training and with it. Then the answer's loss is read: its mean negative log-likelihood a
token behind all the other demonstrations, in the recipe's own text.

    python -m benchmarks.ttt_held_out smollm2 --data ARC-AGI/data/training --folder runs/held_out

Stop it at any time: it shows what there is, and the same command goes on.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
from pathlib import Path

import jax
import numpy as np

from trm_jax.cli.main import EXIT_DONE, EXIT_STOPPED
from trm_jax.cli.main import main as trm
from trm_jax.language import model, peft
from trm_jax.solvers import adapt, run
from trm_jax.solvers.marc import prompts, puzzles
from trm_jax.solvers.nvarc import text, vocabulary
from trm_jax.solvers.refine.score import accuracy
from trm_jax.tasks.arc import files
from trm_jax.tasks.arc.grids import ArcTask, Pair

UNTRAINED = {"marc": ["--puzzles", "0"], "nvarc": ["--permutations", "0"]}


def held_out(tasks: dict[str, ArcTask], count: int) -> dict[str, ArcTask]:
    """The smallest tasks, asked their last demonstration."""
    sizes = {name: sum(a.input.size + a.output.size for a in one.train) for name, one in tasks.items()}
    some = sorted((size, name) for name, size in sizes.items() if len(tasks[name].train) >= 3)[:count]
    return {name: ArcTask(name, tasks[name].train[:-1], tasks[name].train[-1:]) for _, name in sorted(some)}


def write(folder: Path, tasks: dict[str, ArcTask]) -> None:
    def said(pairs):
        return [{"input": one.input.tolist(), "output": one.output.tolist()} for one in pairs]

    folder.mkdir(parents=True, exist_ok=True)
    for name, task in tasks.items():
        (folder / f"{name}.json").write_text(json.dumps({"train": said(task.train), "test": said(task.test)}))


def lesson_of(recipe: str, words, task: ArcTask) -> adapt.Lesson:
    """The held-out pair behind the demonstrations, of which its output and the end of it are learned."""
    (pair,) = task.test
    if recipe == "marc":
        return prompts.Format(words).lesson(puzzles.Puzzle(task.train, Pair(pair.input, pair.output)), "last")
    ids, learned = text.training_text([*task.train, pair])
    return ids, learned & (np.arange(len(ids)) >= len(ids) - len(text.reply(pair.output)))


def losses(recipe: str, opened: model.Model, tasks: dict[str, ArcTask], adapters: Path | None) -> dict[str, float]:
    """Of the true answers, by the base or by what was trained for each task; NaN where its training failed."""
    cfg, params = opened.cfg, opened.params
    if recipe == "nvarc":
        cfg, params = vocabulary.cut(cfg, params, opened.words)
    loss = jax.jit(adapt.loss, static_argnums=1)
    found = {}
    for name, task in tasks.items():
        batch = adapt.batch_of([[lesson_of(recipe, opened.words, task)]], 1)
        trained = {}
        if adapters and not (adapters / name).is_dir():
            found[name] = np.nan
            continue
        if adapters:
            tree, kind = peft.read(adapters / name, cfg, params)
            trained = {"lora": (tree, kind.scale)}
        found[name] = float(loss({**params, **trained}, cfg, {key: x[0] for key, x in batch.items()}))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--preset", default="smollm2", help="of both recipes (smollm2)")
    parser.add_argument("--count", type=int, default=6, help="tasks (6)")
    args = parser.parse_args()
    tasks = held_out(files.read_tasks(args.data), args.count)
    asked = args.folder / "asked"
    write(asked, tasks)
    opened, rows = None, []
    for recipe, updates in itertools.product(UNTRAINED, ("without", "with")):
        workdir = args.folder / f"{recipe}-{updates}"
        more = UNTRAINED[recipe] if updates == "without" else []
        words = ["ttt", recipe, args.model, "--data", asked, "--workdir", workdir, "--preset", args.preset, *more]
        code = trm([str(one) for one in words])
        if code not in (EXIT_DONE, EXIT_STOPPED):
            raise SystemExit(code)
        answered = {name: tasks[name] for name in run.done(workdir, sorted(tasks))}
        opened = opened or model.load(args.model, say=lambda note: None)
        cost = losses(recipe, opened, answered, workdir / run.ADAPTERS if updates == "with" else None)
        for name, task in answered.items():
            record, candidates = run.read(workdir, name)
            cells = accuracy(candidates[0].grid if candidates else None, task.test[0].output)
            rows.append((recipe, updates, name, cost[name], cells, cells == 1, record["seconds"]))
        if code:
            break
    line = "| {} | {} | {} | {:.3f} | {:.3f} | {:.3g} | {:.0f} |"
    print("| recipe | training | task | loss a token | cells | exact | seconds |\n|---|---|---|---|---|---|---|")
    for row in rows:
        print(line.format(*row))
    for kind in dict.fromkeys(row[:2] for row in rows):
        numbers = np.array([row[3:] for row in rows if row[:2] == kind], float)
        print(line.format(*kind, f"mean of {len(numbers)}", *np.nanmean(numbers, 0)))
    spent = sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    print(f"{spent / 60:.1f} minutes of processor time, if nothing was there before")


if __name__ == "__main__":
    main()
