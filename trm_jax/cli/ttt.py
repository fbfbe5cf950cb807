"""`trm ttt`: test-time training on ARC tasks with language models, and what its recipes share."""

from __future__ import annotations

import argparse
import importlib
import json
import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from trm_jax.cli.arguments import any_path, command, positive, seed
from trm_jax.cli.lm import add_loading, add_mesh, loading, mesh, model_path, open_model
from trm_jax.errors import InputError

PARTS = ("ttt_marc", "ttt_nvarc", "ttt_plan")


def add_parser(subparsers) -> None:
    ttt = subparsers.add_parser("ttt", help="answer ARC tasks by a language model that learns each one first")
    commands = ttt.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name in PARTS:
        importlib.import_module(f"trm_jax.cli.{name}").add_parser(commands)


def add_tasks(parser, workdir: str, data_help: str = ""):
    """Which tasks are answered, and where the answers go; the group of options of tasks."""
    text = f"folder of tasks, a task's file or ..._challenges.json{data_help}"
    parser.add_argument("--data", type=any_path, required=not data_help, metavar="SET", help=text)
    parser.add_argument("--workdir", type=any_path, metavar="FOLDER", help=f"({workdir})")
    parser.add_argument("--force", action="store_true", help="begin anew where another run is")
    group = parser.add_argument_group("tasks")
    group.add_argument("--tasks", nargs="+", metavar="ID", help="of the set, these alone")
    text = "every Nth task from number I, from 0 (of several hosts that start together, its own)"
    group.add_argument("--part", type=_part, metavar="I/N", help=text)
    group.add_argument("--minutes", type=_minutes, default=math.inf, metavar="M", help="for a task; then what is there")
    group.add_argument("--seed", type=seed, default=0, metavar="N", help="of what is drawn (0)")
    return group


def add_options(parser, preset: str) -> None:
    """What all recipes ask for; preset: the published run's."""
    parser.add_argument("model", type=model_path, metavar="MODEL", help="a folder, or a .gguf file")
    group = add_tasks(parser, "runs/ttt_RECIPE")
    parser.add_argument("--preset", default=preset, metavar="NAME", help=f"`trm ttt plan` lists them ({preset})")
    group.add_argument(
        "--tasks-at-once", type=positive, default=1, metavar="N", help="trained side by side (1 a device)"
    )
    add_mesh(group, "tensor", "data")
    text = "tasks that the model was trained on, besides those that its folder tells"
    group.add_argument("--trained-on", type=any_path, nargs="+", default=[], metavar="SET", help=text)
    text = "answer tasks that the model was trained on, and mark the answers so"
    group.add_argument("--allow-contaminated", action="store_true", help=text)
    group.add_argument("--no-adapters", action="store_true", help="do not keep what was trained")
    add_loading(parser, batch=False)


def options(args, recipe: str) -> dict:
    """The options of a recipe by its preset, and in place of the preset's those that were given."""
    from trm_jax.solvers.configuration import preset

    given = {name: value for name, value in vars(args).items() if value is not None}
    return {name: given.get(name, value) for name, value in preset(args.preset, recipe).items()}


def _part(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    if not found or int(found[1]) >= int(found[2]):
        raise argparse.ArgumentTypeError(f"{text!r} is no part; write 0/4 for the first of four")
    return int(found[1]), int(found[2])


def part(args) -> tuple[int, int]:
    """(number, of how many) of the part to answer: --part, else that of a host of a Cloud TPU, of GKE or SLURM, or one
    that was told. They need not hear of each other."""
    import jax

    from trm_jax.distributed import rendezvous

    if args.part or not rendezvous.expected():
        return args.part or (0, 1)
    cluster = rendezvous.find()
    if cluster.local_devices is not None:
        jax.config.update("jax_cuda_visible_devices", ",".join(map(str, cluster.local_devices)))
    return cluster.process, cluster.processes


def _minutes(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not found > 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no time; write minutes, as 2.5")
    return found


@contextmanager
def enough_memory(advice: str) -> Iterator[None]:
    """Say in a line that the device's memory is used up, and what to do."""
    import jax

    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise InputError(f"the device has too little memory; {advice}") from None


def run(args, kind: str, settings: Mapping, solver: Callable, adapter_bytes: Callable, score_kind: str = "rank") -> int:
    """Answer the tasks of a set by a recipe: exit code.

    kind: of the predictions' member; settings: what decides the answers, besides the model and how it is loaded;
    solver(model, tasks at once, mesh) -> a `solvers.run.Solver`; adapter_bytes(decoder.Config): of what is kept of a
    task; score_kind: of the predictions.
    """
    from trm_jax import compiler
    from trm_jax.cli.main import EXIT_STOPPED
    from trm_jax.language.model import digest
    from trm_jax.models.layers import round_up
    from trm_jax.solvers import run as runs
    from trm_jax.solvers.seen import seen
    from trm_jax.tasks.arc import files

    tasks = chosen(args, files.read_tasks(args.data))
    known = seen(tasks, [one for one in (args.model, args.adapter) if one and one.is_dir()], args.trained_on)
    if known.sets:
        print(f"the model was trained on {known}", file=sys.stderr)
    contaminated = [str(known)] if known.ids or known.pairs else []
    if contaminated and not args.allow_contaminated:
        raise InputError(
            "it has seen what it is asked; take other tasks, or --allow-contaminated, which marks the answers"
        )

    folder = args.workdir or Path("runs") / f"ttt_{kind}"
    data, name = files.digest(tasks), args.model.absolute().name
    settings = json.loads(json.dumps(settings))  # as it will be read again: tuples are lists
    header = {"recipe": kind, "model": digest(args.model, **loading(args)), "data": data, "settings": settings}
    (index, count), on = part(args), mesh(args)  # in this order: a part may be of some devices only
    runs.begin(folder, header, args.force)
    own = sorted(tasks)[index::count]
    ready = len(runs.done(folder, own))
    if ready:
        print(f"going on: {ready} of {len(own)} tasks are answered", file=sys.stderr)
    if ready < len(own):
        compiler.use_cache()
        advice = "give less of --tasks-at-once or --prompts-at-once, or --quantise int8 or a lower --limit with --force"
        with enough_memory(advice):
            model = plain(open_model(args.model, loading(args), on))
            at_once = round_up(args.tasks_at_once, on.shape["data"])
            if not args.no_adapters and (size := adapter_bytes(model.cfg) * len(own)) > 2**30:
                print(f"note: adapters of {len(own)} tasks take {size / 2**30:.1f} GiB; --no-adapters", file=sys.stderr)
            more = (at_once, 60 * args.minutes, not args.no_adapters, on.shape["data"])
            asked = {one: tasks[one] for one in own}
            if not work(folder, f"{kind} {name}", asked, solver(model, at_once, on), name, *more):
                return EXIT_STOPPED
    contaminated += [settings["contaminated"]] if "contaminated" in settings else []
    told = {**settings, **({"contaminated": "; ".join(contaminated)} if contaminated else {})}
    member = {"name": f"{kind}-{name}", "kind": kind, "command": args.typed, "settings": told, "trained_on": known.sets}
    code = finish(folder, tasks, args.data, member, score_kind)
    if contaminated:
        print(f"contaminated: the model was trained on {told['contaminated']}")
    return code


def chosen(args, tasks: Mapping) -> dict:
    """The tasks that are to be answered, in the order of their names."""
    for name in args.tasks or ():
        if name not in tasks:
            raise InputError(f"--tasks {name}: {args.data} has no such task")
    return {name: tasks[name] for name in sorted(args.tasks or tasks)}


def work(folder, title, tasks, solver, base: str, at_once=1, seconds=math.inf, adapters=True, devices=1) -> bool:
    """Answer those of `tasks` that no record in `folder` is of, with a bar: whether there is one of all of them now.

    at_once: tasks that are trained side by side; seconds: for a task; devices: that share them out, and their time runs
    at once; base, adapters: as for `solvers.run.answer`.
    """
    from contextlib import closing

    from trm_jax.solvers import question
    from trm_jax.solvers import run as runs
    from trm_jax.train.progress import Progress
    from trm_jax.train.stopping import StopRequest

    ready = len(runs.done(folder, [*tasks]))
    with StopRequest() as stop, closing(Progress(title, len(tasks))) as progress:
        progress.start(ready)

        def watch(group: int) -> runs.Watch:
            return runs.Watch(
                seconds * min(group, at_once // devices), lambda: bool(stop), lambda text: progress.step(ready, text)
            )

        asked = [question(one) for one in tasks.values()]
        try:
            for record in runs.answer(folder, asked, solver, at_once, watch, base, adapters):
                ready += 1
                progress.say(row(record, ready, len(tasks)))
                progress.step(ready)
        except runs.Stopped:
            pass
    if ready < len(tasks):
        print(f"stopped by {stop.name}: {ready} of {len(tasks)} tasks are answered")
        print("next: the same command goes on from there", file=sys.stderr)
    return ready == len(tasks)


def plain(model):
    """A model whose own adapter is merged into its weights, for another one is to be trained beside them."""
    import dataclasses

    from trm_jax.models.lora import merge

    if "lora" not in model.params:
        return model
    params = dict(model.params)
    params, cfg = merge(params, model.cfg, *params.pop("lora"))
    return dataclasses.replace(model, params=params, cfg=cfg)


def row(record: Mapping, number: int, total: int) -> str:
    """A task's line of the table."""
    told = "  ".join(f"{name} {value}" for name, value in record["numbers"].items())
    why = f"  ({record['reason']})" if record["reason"] else ""
    place = f"{number:>{len(str(total))}}/{total}"
    return f"{place}  {record['task']}  {record['status']:<7}  {record['seconds']:.1f} s  {told}{why}"


def finish(folder, tasks: Mapping, source, member: Mapping, score_kind: str = "rank") -> int:
    """Merge the records into predictions once those of all parts are there; source: of the tasks; member: what
    `predictions.Member` takes, of any name; score_kind: what counts in a vote."""
    from trm_jax.solvers import run as runs
    from trm_jax.tasks.arc.files import digest
    from trm_jax.tasks.arc.predictions import Header, Member, ranked
    from trm_jax.tasks.arc.submission import submission, write_submission

    missing = len(tasks) - len(runs.done(folder, sorted(tasks)))
    if missing:
        print(f"answered: this part; {missing} of {len(tasks)} tasks are other parts'")
        return 0
    safe = re.sub(r"[^A-Za-z0-9._-]", "-", member["name"])[:64]
    header = Header(Member(**{**member, "name": safe}), source.name, digest(tasks), score_kind)
    counts = runs.merge(folder, header, sorted(tasks))
    best = {key: [one.grid for one in found] for key, found in ranked([folder / runs.PREDICTIONS])}
    write_submission(folder / runs.SUBMISSION, submission(best, tasks))
    print(f"tasks        {len(tasks)}: " + ", ".join(f"{many} {status}" for status, many in sorted(counts.items())))
    print(f"predictions  {folder / runs.PREDICTIONS}")
    print(f"submission   {folder / runs.SUBMISSION}")
    print(f"next: {command('arc', 'score', folder / runs.PREDICTIONS, '--data', source)}", file=sys.stderr)
    return 0
