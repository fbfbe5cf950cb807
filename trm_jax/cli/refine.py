"""`trm refine`: answer ARC tasks by programs that a language model writes and betters.

A coder writes a program that turns inputs into outputs; it is run on the demonstrations, and what it gets wrong is told
in the next request. What solves all demonstrations, or else comes nearest, answers the test inputs. The coder is
script:FILE (replies that are written down, for tests), local:DIR (a model on this machine) or http://HOST/v1 (an
OpenAI-compatible server, whose key is read from TRM_CODER_KEY or OPENAI_API_KEY). Every reply is kept, and the same
command goes on where it was stopped.

Programs run on this machine, and only with --allow-code-execution: in a sandbox that stops accidents and ends in time
whatever it runs, but that is NOT A SECURITY BOUNDARY. Use a machine that has nothing to lose.

examples:
  trm refine --data ARC-AGI/data/evaluation --coder http://localhost:8000/v1 --coder-model Qwen2.5-Coder-32B-Instruct \\
      --allow-code-execution --experts 2 --minutes 20
  trm refine --data task.json --coder local:models/Qwen2.5-Coder-7B-Instruct --allow-code-execution --stop-after 2
  trm refine --coder script:replies.json --allow-code-execution
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from trm_jax.cli import ttt
from trm_jax.cli.arguments import add_documented, at_least, positive
from trm_jax.cli.lm import add_loading, loading, model_path, open_model
from trm_jax.errors import InputError

KEYS = ("TRM_CODER_KEY", "OPENAI_API_KEY")
WRITE_ONE = "script:FILE, local:DIR or http://HOST/v1"


def add_parser(subparsers) -> None:
    parser = add_documented(subparsers, "refine", run, __doc__)
    ttt.add_tasks(parser, "runs/refine", " (the task of a script)")
    group = parser.add_argument_group("the coder")
    group.add_argument("--coder", type=_coder, metavar="WHO", help=WRITE_ONE)
    group.add_argument("--coder-model", metavar="NAME", help="what the server at the address calls the model")
    group.add_argument("--temperature", type=_between(0, 100), default=1.0, metavar="X", help="(1)")
    text = "tokens of a reply (4096)"
    group.add_argument("--max-new-tokens", type=positive, default=4096, metavar="N", help=text)
    group = parser.add_argument_group("the search")
    text = "rounds of refinement, or a tree of generations (rounds)"
    group.add_argument("--search", choices=("rounds", "tree"), default="rounds", help=text)
    group.add_argument("--rounds", type=positive, default=10, metavar="N", help="of an expert (10)")
    group.add_argument("--experts", type=positive, default=1, metavar="N", help="that search apart and vote (1)")
    group.add_argument("--shown", type=at_least(0), default=5, metavar="N", help="earlier programs in a request (5)")
    group.add_argument("--keep", type=_between(0, 1), default=1.0, metavar="P", help="chance of each to be shown (1)")
    text = "programs that solve all demonstrations (1; 2 in a tree)"
    group.add_argument("--stop-after", type=positive, metavar="N", help=text)
    text = "of a task; requests that failed count (twice what the search asks)"
    group.add_argument("--calls", type=positive, default=0, metavar="N", help=text)
    text = "of prompts and replies of a task (any number)"
    group.add_argument("--token-budget", type=positive, default=0, metavar="N", help=text)
    group = parser.add_argument_group("the sandbox, which is no security boundary")
    text = "run what the coder writes on this machine; the sandbox is NOT a security boundary"
    group.add_argument("--allow-code-execution", action="store_true", help=text)
    text = "open: run programs though nothing keeps them from the network (closed)"
    group.add_argument("--sandbox-network", choices=("closed", "open"), default="closed", help=text)
    text = "of a program, on all inputs of a task (10)"
    group.add_argument("--program-seconds", type=_between(1, 3600), default=10.0, metavar="S", help=text)
    group.add_argument("--program-megabytes", type=positive, default=1024, metavar="N", help="of memory (1024)")
    add_loading(parser, "a local coder")


def _between(low: float, high: float) -> Callable[[str], float]:
    def number(text: str) -> float:
        if not low <= float(text) <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is not from {low:g} to {high:g}")
        return float(text)

    return number


def _coder(text: str) -> tuple[str, str | Path]:
    """(kind, what it names)."""
    from trm_jax.language.remote import check_address, is_address

    kind, _, rest = text.partition(":")
    if kind == "script" and rest:
        return kind, Path(rest)
    if kind == "local" and rest:
        return kind, model_path(rest)
    address = rest if kind == "http" and is_address(rest) else text
    if not is_address(address):
        raise argparse.ArgumentTypeError(f"{text!r} is no coder; write {WRITE_ONE}")
    try:
        check_address(address)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return "http", address


def run(args) -> int:
    import dataclasses
    import json

    from trm_jax.cli.main import EXIT_STOPPED
    from trm_jax.language.model import digest
    from trm_jax.solvers import run as runs
    from trm_jax.solvers.refine import coders, search
    from trm_jax.solvers.seen import seen
    from trm_jax.storage.paths import write_whole
    from trm_jax.tasks.arc import files

    kind, place = _checked(args)
    folder = args.workdir or Path("runs") / "refine"
    script = coders.Script(place) if kind == "script" else None
    if args.data is None:
        if script is None or script.task is None:
            raise InputError("name the tasks with --data")
        args.data = folder / "set" / f"{script.task.id}.json"
    sandbox = _sandbox(args)
    if script and script.task and args.data.parent == folder / "set":
        write_whole(args.data, json.dumps(script.content["task"]).encode())
    tasks = ttt.chosen(args, files.read_tasks(args.data))
    stop_after = args.stop_after or (2 if args.search == "tree" else 1)
    named = {name: getattr(args, name) for name in ("search", "rounds", "experts", "shown", "keep", "calls", "seed")}
    settings = search.Settings(**named, stop_after=stop_after, tokens=args.token_budget)
    model = script.digest if script else digest(place, **loading(args)) if kind == "local" else place
    told = dataclasses.asdict(settings)
    budgets = {"calls": told.pop("calls"), "tokens": told.pop("tokens"), "minutes": str(args.minutes)}
    told |= {name: getattr(args, name) for name in ("temperature", "max_new_tokens", "program_seconds")}
    told |= {"program_megabytes": args.program_megabytes, "coder_model": args.coder_model}
    header = {"coder": kind, "model": model, "data": files.digest(tasks), "settings": told}
    runs.begin(folder, header, args.force, budgets)
    index, count = ttt.part(args)
    own = sorted(tasks)[index::count]
    if not _answer(args, kind, script or place, sandbox, settings, folder, [tasks[name] for name in own]):
        return EXIT_STOPPED
    name = args.coder_model or Path(place).absolute().name
    told |= {"sandbox": dict(sandbox.layers), **budgets}
    known = seen(tasks, [one for one in (place, args.adapter) if kind == "local" and one and one.is_dir()], ())
    if known.ids:
        told["contaminated"] = str(known)
        print(f"contaminated: the coder was trained on {known}")
    member = {"name": f"refine-{name}", "kind": "refine", "command": args.typed, "settings": told}
    member["trained_on"] = known.sets
    return ttt.finish(folder, tasks, args.data, member)


def _checked(args) -> tuple[str, str | Path]:
    """The coder. Raises InputError for one that is missing, and for options that are not of its kind."""
    if args.coder is None:
        raise InputError(f"no coder; name who writes the programs: --coder {WRITE_ONE}")
    kind, place = args.coder
    if (kind == "http") != (args.coder_model is not None):
        said = f"name the model of {place} with it" if kind == "http" else "it is for an address; leave it out"
        raise InputError(f"--coder-model: {said}")
    if kind != "local" and (given := [name for name, value in loading(args).items() if value is not None]):
        raise InputError(f"{', '.join(given)}: such options are for --coder local:DIR")
    if not args.allow_code_execution:
        said = "programs that the coder writes would run on this machine; --allow-code-execution allows it"
        raise InputError(f"{said}, in a sandbox that is not a security boundary")
    return kind, place


def _sandbox(args):
    """The sandbox, and a line that says what it keeps from programs here."""
    from trm_jax.solvers.refine.sandbox import Sandbox

    sandbox = Sandbox(args.program_seconds, args.program_megabytes)
    closed = sandbox.closed
    layers = ", ".join(f"{name} {'on' if on else 'off'}" for name, on in sandbox.layers.items())
    print(f"sandbox: not a security boundary; {layers}")
    print("sandbox: " + ", ".join(f"{what}: {'closed' if shut else 'open'}" for what, shut in closed.items()))
    if not closed["network"] and args.sandbox_network == "closed":
        raise InputError(
            "nothing here keeps programs from the network; --sandbox-network open runs them all the same, or use a "
            "Linux machine with namespaces or seccomp"
        )
    return sandbox


def _answer(args, kind: str, coder, sandbox, settings, folder, tasks) -> bool:
    """Answer the tasks that no record is there of; False if stopped."""
    from contextlib import closing, nullcontext

    from trm_jax.solvers import question
    from trm_jax.solvers import run as runs
    from trm_jax.solvers.refine import solve
    from trm_jax.train.progress import Progress
    from trm_jax.train.stopping import StopRequest

    names = [task.id for task in tasks]
    ready = len(runs.done(folder, names))
    if ready:
        print(f"going on: {ready} of {len(names)} tasks are answered", file=sys.stderr)
    if ready == len(names):
        return True
    local = kind == "local"
    model = open_model(coder, loading(args)) if local else None
    # A request or a program may take long, so Ctrl-C ends them at once; each reply is kept when it comes.
    with StopRequest() if local else nullcontext() as stop, closing(Progress("refine", len(names))) as progress:
        progress.start(ready)
        write = _open(args, kind, model or coder, settings, folder, lambda: bool(stop), progress.say)
        solver = solve.Refine(write, sandbox, settings, folder, progress.say)
        seconds = 60 * args.minutes
        watch = lambda _: runs.Watch(seconds, lambda: bool(stop))  # noqa: E731
        try:
            for record in runs.answer(folder, [question(task) for task in tasks], solver, 1, watch, "", False):
                ready += 1
                progress.say(ttt.row(record, ready, len(names)))
                progress.step(ready)
        except runs.Stopped:
            pass
        except KeyboardInterrupt:
            if local:
                raise
    if ready < len(names):
        print(f"stopped: {ready} of {len(names)} tasks are answered, and what was written for the next is kept")
        print("next: the same command goes on from there", file=sys.stderr)
    return ready == len(names)


def _open(args, kind: str, given, settings, folder, stopping: Callable[[], bool], say: Callable[[str], None]):
    """The coder, ready to write; given: the script, the model or the address."""
    from trm_jax import compiler
    from trm_jax.language import remote
    from trm_jax.solvers.refine import coders, solve

    if kind == "script":
        given.given = solve.replies_in(folder)
        return given
    if kind == "local":
        compiler.use_cache()
        at_once = args.batch if settings.search == "tree" else min(args.batch, settings.experts)
        return coders.Local(given, args.max_new_tokens, args.temperature, at_once, stopping)
    key = remote.key_of(*KEYS)
    if key and remote.exposes_key(given):
        print(f"note: {key.name} goes to {given} unencrypted; https:// would hide it", file=sys.stderr)
    answered = solve.replies_in(folder) > 0
    return coders.Remote(given, args.coder_model, args.max_new_tokens, args.temperature, key, say, answered)
