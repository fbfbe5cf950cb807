"""`trm lm judge`: score answers by their words, and by a model that judges them.

Exact match and SQuAD's F1 always; with --judge also what a model says of each answer: a folder, a .gguf file, or the
address of an OpenAI-compatible server. It says yes, no or something else, which counts apart; P(yes) is the share of
yes in what its first token gives to yes and no. It is also asked about answers that are known to be right or wrong:
one that cannot tell them apart says nothing about the others. What is ruled is kept in OUTPUT.partial, and the same
command goes on from there. The key of a server is read from TRM_JUDGE_KEY or OPENAI_API_KEY.

examples:
  trm lm judge answers.jsonl
  trm lm judge answers.jsonl --judge models/SmolLM2-135M-Instruct
  trm lm judge answers.jsonl --judge models/Llama-3.1-8B-Instruct --how chat --quantise int8
  trm lm judge answers.jsonl --judge http://localhost:8000/v1 --judge-model Qwen3-8B
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from contextlib import closing, nullcontext
from pathlib import Path

from trm_jax.cli.arguments import add_documented, any_path, command
from trm_jax.cli.lm import add_loading, loading, model_path, open_model
from trm_jax.errors import InputError
from trm_jax.storage.paths import AnyPath

KEYS = ("TRM_JUDGE_KEY", "OPENAI_API_KEY")


def add_parser(subparsers) -> None:
    parser = add_documented(subparsers, "judge", run, __doc__)
    parser.add_argument("answers", type=any_path, metavar="ANSWERS", help="a file that `trm lm generate` wrote")
    add_options(parser)
    add_loading(parser)
    parser.add_argument("--output", type=any_path, metavar="FILE", help="(beside ANSWERS, as NAME-judged.jsonl)")
    parser.add_argument("--force", action="store_true", help="begin anew where other rulings are")


def add_options(parser: argparse.ArgumentParser, required: bool = False) -> None:
    """Who judges and how; `judge` reads them."""
    group = parser.add_argument_group("the judge")
    text = "a folder, a .gguf file or the address of a server" + " (none: words alone are compared)" * (not required)
    group.add_argument("--judge", type=_judge, metavar="MODEL", required=required, help=text)
    text = "shots: six graded examples, then the answer; chat: rules alone, by the chat template (shots)"
    group.add_argument("--how", choices=("shots", "chat"), default="shots", help=text)
    group.add_argument("--judge-model", metavar="NAME", help="what the server at the address calls the model")
    text = "do not ask about answers that are known to be right or wrong"
    group.add_argument("--no-control", dest="control", action="store_false", help=text)


def _judge(text: str) -> str | Path:
    from trm_jax.language.remote import check_address, is_address

    if not is_address(text):
        return model_path(text)
    try:
        check_address(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def run(args) -> int:
    from trm_jax.cli.main import EXIT_STOPPED

    output = args.output or args.answers.with_name(f"{args.answers.name.removesuffix('.jsonl')}-judged.jsonl")
    if not judge(args.answers, loading(args), args.batch, args, output, args.force):
        return EXIT_STOPPED
    if args.judge is None:
        print(f"next: {command('lm', 'judge', args.answers, '--judge', 'MODEL', '--force')}", file=sys.stderr)
    return 0


def judge(answers: AnyPath, how: dict, rows: int, args, output: AnyPath, force: bool = False) -> bool:
    """Write the scores of answers, and what the judge says of them, to `output`, and print them; False if stopped.

    args: what `add_options` reads; how a model on this machine is loaded, and rows: prompts that it reads at a time.
    What is there already is kept.
    """
    from trm_jax.language import generate, lines
    from trm_jax.language import judge as j
    from trm_jax.language.model import digest
    from trm_jax.reports import judged

    check(args, how)
    records = generate.records(answers)[1:]
    asked = j.cases(records, args.control and args.judge is not None)
    local = isinstance(args.judge, Path)
    name = args.judge.absolute().name if local else args.judge
    header = j.header(answers, name, digest(args.judge, **how) if local else args.judge_model, args.how, args.control)
    done = {(one["id"], one.get("control", "")): one for one in lines.begin(output, header, force)}
    missing = [case for case in asked if case.key not in done]
    if missing and len(missing) < len(asked):
        print(f"going on: {len(asked) - len(missing):,} of {len(asked):,} rulings are there", file=sys.stderr)
    if args.judge is None:
        done |= {case.key: j.record(case, None) for case in missing}
    elif missing and not _ask(args, how, rows, asked, done, output, header):
        print(f"stopped: {len(done):,} of {len(asked):,} rulings are in {lines.partial(output)}")
        print("next: the same command goes on from there", file=sys.stderr)
        return False
    lines.finish(output, header, [done[case.key] for case in asked])
    found = judged.figures(records, [done[case.key] for case in asked])
    print("\n".join(judged.tell(found)))
    for warning in found.warnings:
        print(f"mind: {warning}", file=sys.stderr)
    print(f"rulings: {output}")
    return True


def check(args, how: dict) -> None:
    """Raise InputError for a judge that is not there, and for options that are not of its kind."""
    from trm_jax.language.model import digest

    remote = isinstance(args.judge, str)
    if remote and args.judge_model is None:
        raise InputError(f"name the model of {args.judge} with --judge-model")
    if args.judge_model is not None and not remote:
        raise InputError("--judge-model is for the address of a server; leave it out, or give --judge http://...")
    if not isinstance(args.judge, Path) and (given := [name for name, value in how.items() if value is not None]):
        said = "the server loads its own" if remote else "name it with --judge"
        raise InputError(f"{', '.join(given)}: such options are for a model on this machine; {said}")
    if isinstance(args.judge, Path):
        digest(args.judge, **how)


def _ask(args, how: dict, rows: int, asked: list, done: dict, output: AnyPath, header: dict) -> bool:
    """Ask the judge what `done` does not have, and add it there and to the unfinished file; False if stopped."""
    from trm_jax import compiler
    from trm_jax.language import judge as j
    from trm_jax.language import lines, remote
    from trm_jax.train.progress import Progress
    from trm_jax.train.stopping import StopRequest

    local = isinstance(args.judge, Path)
    if local:
        compiler.use_cache()
        model, name = open_model(args.judge, how), args.judge.name
        if args.how == "shots" and not model.words.templates:  # in a chat it is refused
            print(f"note: {name} has no chat template, so it may be a base model: look at its control", file=sys.stderr)
    else:
        key, name = remote.key_of(*KEYS), args.judge_model
        if key and remote.exposes_key(args.judge):
            print(f"note: {key.name} goes to {args.judge} unencrypted; https:// would hide it", file=sys.stderr)
    there = [number for number, case in enumerate(asked) if case.key in done]
    # A request may take long, so Ctrl-C ends it at once; each ruling is kept when it comes.
    with StopRequest() if local else nullcontext() as stop, closing(Progress(f"rulings of {name}", len(asked))) as bar:
        bar.start(len(there))
        if local:
            batches = j.by_model(model, asked, args.how, rows=rows, done=there, stopping=lambda: bool(stop))
        else:
            batches = j.by_server(args.judge, name, asked, args.how, done=there, key=key, say=bar.say)
        try:
            for batch in batches:
                records = {asked[number].key: j.record(asked[number], ruling) for number, ruling in batch}
                lines.add(output, header, records.values())
                done |= records
                said = Counter(one["verdict"] for one in done.values())
                bar.step(len(done), "  ".join(f"{said[verdict]} {verdict}" for verdict in ("yes", "no", "unparsable")))
        except KeyboardInterrupt:
            if local:
                raise
    return len(done) == len(asked)
