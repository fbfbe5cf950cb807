"""`trm lm generate`: let a model answer questions, with the likelihood of every token.

MODEL is a folder in Hugging Face's format, or a .gguf file. Each question is asked behind a few that are answered
(shots); an answer ends before a blank line or at the model's own end of a text. Greedy, unless --temperature.
What is written is kept in OUTPUT.partial a batch at a time, and the same command goes on from there.

examples:
  trm lm generate models/SmolLM2-135M-Instruct --output answers.jsonl
  trm lm generate models/Llama-3.2-1B --questions mine.jsonl --shots mine_shots.jsonl --quantise int8
  trm lm generate model.gguf --chat --shots 0 --temperature 0.7 --seed 1
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from trm_jax.cli.arguments import add_documented, any_path, command, positive, seed
from trm_jax.cli.lm import add_loading, loading, model_path, open_model
from trm_jax.errors import InputError
from trm_jax.storage.paths import AnyPath


def add_parser(subparsers) -> None:
    parser = add_documented(subparsers, "generate", run, __doc__)
    parser.add_argument("model", type=model_path, metavar="MODEL", help="a folder, or a .gguf file")
    add_options(parser)
    add_loading(parser)
    parser.add_argument("--output", type=any_path, metavar="FILE", help="(NAME-answers.jsonl)")
    parser.add_argument("--force", action="store_true", help="begin anew where other answers are")


def add_options(parser: argparse.ArgumentParser) -> None:
    """What decides the answers, besides the model; `generate` reads them."""
    group = parser.add_argument_group("questions and answers")
    text = 'JSON lines {"id", "question", "answers": [...], "context"} (40 that are built in)'
    group.add_argument("--questions", type=any_path, metavar="FILE", help=text)
    text = "answered questions in front: so many of those built in, or all of a file (5)"
    group.add_argument("--shots", type=_shots, default="5", metavar="N|FILE", help=text)
    group.add_argument("--brief", metavar="TEXT", help="a line above each question; '' for none")
    text = "tokens of an answer (150)"
    group.add_argument("--max-new-tokens", type=positive, default=150, metavar="N", help=text)
    group.add_argument("--temperature", type=float, default=0.0, metavar="T", help="0: the likeliest token (0)")
    group.add_argument("--seed", type=seed, default=0, metavar="N", help="of what is drawn (0)")
    text = r"strings before which an answer ends; \n is the end of a line (a blank line, Question: Context: Answer:)"
    group.add_argument("--stop", nargs="*", metavar="TEXT", help=text)
    group.add_argument("--chat", action="store_true", help="ask by the model's chat template")
    text = "of a prompt that is too long, leave the beginning away, and count that"
    group.add_argument("--truncate-left", action="store_true", help=text)


def run(args) -> int:
    from trm_jax.cli.main import EXIT_STOPPED

    output = args.output or Path(f"{args.model.absolute().name.removesuffix('.gguf')}-answers.jsonl")
    if not generate(args.model, loading(args), args, output, args.force):
        return EXIT_STOPPED
    following = command("lm", "judge", output, "--judge", args.model)
    print(f"next: {following}", file=sys.stderr)
    return 0


def generate(model: Path, how: dict, args, output: AnyPath, force: bool = False) -> bool:
    """Write the answers of a model, loaded as `how` says, to `output` and print their scores; False if stopped.

    args: what `add_options` reads. What is there already, under the same settings, is not written again.
    """
    from trm_jax.language import generate as g
    from trm_jax.language import judge, lines
    from trm_jax.language.model import digest
    from trm_jax.reports import judged

    source = args.questions or g.QUESTIONS
    questions, shots, settings = g.read_questions(source), _shown(args.shots), _settings(args)
    header = g.header(model.absolute().name, digest(model, **how), source.name, questions, shots, settings)
    done = {one["id"]: one for one in lines.begin(output, header, force)}
    if len(done) < len(questions):
        if done:
            print(f"going on: {len(done):,} of {len(questions):,} answers are there", file=sys.stderr)
        if not _write(model, how, questions, shots, settings, args.batch, output, header, done):
            return False
    records = [done[one.id] for one in questions]
    lines.finish(output, header, records)
    print("\n".join(judged.tell(judged.figures(records, judge.rulings(records)))))
    print(f"answers: {output}")
    return True


def _settings(args):
    from trm_jax.language import generate as g

    given = {name: getattr(args, name) for name in ("max_new_tokens", "temperature", "seed", "chat", "truncate_left")}
    if args.brief is not None:
        given["brief"] = args.brief
    if args.stop is not None:
        given["stops"] = tuple(one.replace(r"\n", "\n") for one in args.stop)
    return g.Settings(**given)


def _shots(text: str) -> int | AnyPath:
    return int(text) if text.isdecimal() else any_path(text)


def _shown(given: int | AnyPath) -> list:
    """The questions that are shown with their answers."""
    from trm_jax.language import generate as g

    if not isinstance(given, int):
        return g.read_questions(given)
    shots = g.read_questions(g.SHOTS)
    if given > len(shots):
        raise InputError(f"--shots {given}: {len(shots)} are built in; name a file of more")
    return shots[:given]


def _write(
    model: Path, how: dict, questions, shots, settings, rows: int, output: AnyPath, header: dict, done: dict
) -> bool:
    """Write the answers that `done` does not have, and add them to it; False if stopped."""
    from contextlib import closing

    from trm_jax import compiler
    from trm_jax.language import generate as g
    from trm_jax.language import lines
    from trm_jax.train.progress import Progress
    from trm_jax.train.stopping import StopRequest

    compiler.use_cache()
    opened = open_model(model, how)
    with StopRequest() as stop, closing(Progress(f"answers {opened.name}", len(questions))) as progress:
        progress.start(len(done))
        batches = g.answers(opened, questions, shots, settings, rows=rows, done=done, stopping=lambda: bool(stop))
        began, tokens = time.monotonic(), 0
        for batch in batches:
            lines.add(output, header, batch)
            done |= {one["id"]: one for one in batch}
            tokens += sum(len(one["tokens"]) for one in batch)
            progress.step(len(done), f"{tokens / (time.monotonic() - began):.1f} tokens/s")
    if len(done) < len(questions):
        print(f"stopped by {stop.name}: {len(done):,} of {len(questions):,} answers are in {lines.partial(output)}")
        print("next: the same command goes on from there", file=sys.stderr)
        return False
    return True
