"""`trm lm run`: let one model answer questions, another one judge the answers, and report.

The judge is loaded when the generator is out of memory, so each may be as large as fits. Everything goes into one
folder: answers.jsonl, judged.jsonl, report.html and what belongs to it. The same command goes on where it was stopped.

examples:
  trm lm run --generator models/SmolLM2-135M-Instruct --judge models/Llama-3.1-8B-Instruct --workdir runs/answers
  trm lm run --generator model.gguf --judge model.gguf --questions mine.jsonl --workdir runs/mine
  trm lm run --generator big --quantise int8 --judge http://localhost:8000/v1 --judge-model Qwen3-8B --workdir runs/big
"""

from __future__ import annotations

import sys

from trm_jax.cli import lm_generate, lm_judge
from trm_jax.cli.arguments import add_documented, any_path
from trm_jax.cli.lm import add_loading, loading, model_path
from trm_jax.storage.paths import AnyPath


def add_parser(subparsers) -> None:
    parser = add_documented(subparsers, "run", run, __doc__)
    text = "a folder, or a .gguf file"
    parser.add_argument("--generator", type=model_path, metavar="MODEL", required=True, help=text)
    lm_generate.add_options(parser)
    lm_judge.add_options(parser, required=True)
    add_loading(parser, "the generator")
    add_loading(parser, "the judge", "judge-")
    parser.add_argument("--workdir", type=any_path, metavar="DIR", required=True, help="folder of what is written")
    parser.add_argument("--force", action="store_true", help="begin anew where other answers are")


def run(args) -> int:
    from trm_jax.cli.main import EXIT_STOPPED
    from trm_jax.storage.output import owned

    answers, judged = (args.workdir / name for name in ("answers.jsonl", "judged.jsonl"))
    lm_judge.check(args, loading(args, "judge-"))
    with owned(args.workdir, lambda: None):
        before = _live_bytes()
        if not lm_generate.generate(args.generator, loading(args), args, answers, args.force):
            return EXIT_STOPPED
        print(f"the generator is unloaded; {_live_bytes() - before:,} bytes of it are left", file=sys.stderr)
        if not lm_judge.judge(answers, loading(args, "judge-"), args.judge_batch, args, judged, args.force):
            return EXIT_STOPPED
        page = _report(args, answers, judged)
    print(f"next: open {page}")
    return 0


def _live_bytes() -> int:
    """Of all arrays on the devices of this process."""
    import gc

    import jax

    gc.collect()
    return sum(array.nbytes for array in jax.live_arrays())


def _report(args, answers: AnyPath, judged: AnyPath) -> AnyPath:
    """Write the report on both files beside them; its page."""
    from trm_jax.language import generate, judge
    from trm_jax.reports.judged import report
    from trm_jax.reports.pages import write_report

    (written, *answered), (ruled, *rulings) = generate.records(answers), judge.records(judged)
    about = {
        "command": args.typed,
        "generator": f"{written['model']} ({written['digest']})",
        "judge": f"{ruled['judge']} ({ruled['digest']})",
        "questions": f"{written['questions']} (SHA-256 {written['sha256'][:16]})",
        "answers": ", ".join(f"{name} {value!r}" for name, value in written["settings"].items()),
        "rulings": ", ".join(f"{name} {value}" for name, value in ruled["settings"].items()),
    }
    return write_report(report("report", about, answered, rulings), args.workdir)[0]
