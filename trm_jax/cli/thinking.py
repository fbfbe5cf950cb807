"""`trm eval --stop-at` and `trm eval --diagnose`: when a model is done, and what it does while it thinks."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

from trm_jax.cli.arguments import command
from trm_jax.errors import InputError
from trm_jax.storage.paths import append_line, write_whole


def add_options(parser) -> None:
    one = parser.add_mutually_exclusive_group()
    text = "a puzzle leaves when q_halt > 0 or its answer stays the same, and the next takes its place"
    one.add_argument("--stop-at", choices=("q", "settled"), help=text)
    one.add_argument("--diagnose", action="store_true", help="what happens while it thinks: RUN/diagnostics.json, .png")
    text = "with --stop-at: also time the evaluation of the same puzzles at all steps"
    parser.add_argument("--against-full", action="store_true", help=text)


def asked(args) -> bool:
    """Whether a command line asks for one of the two. Raises InputError for options that do not go together."""
    flag = "--diagnose" if args.diagnose else f"--stop-at {args.stop_at}"
    if args.against_full and not args.stop_at:
        raise InputError("--against-full compares with an evaluation that stops early; add --stop-at q")
    for name, given in (("--checkpoints", args.checkpoints), ("--drafts", args.drafts)):
        if given and (args.diagnose or args.stop_at):
            raise InputError(f"{name} does not go with {flag}; leave one of them out")
    return bool(args.diagnose or args.stop_at)


def run(args, opened, data, meter) -> int:
    """Do it with an opened run on a task's `EvalSource`."""
    if not hasattr(opened.cfg.family, "LATENTS"):
        flag = "--diagnose" if args.diagnose else "--stop-at"
        family = opened.config.model.family
        raise InputError(f"{flag}: model.family={family} answers at once, in no steps; leave it out")
    return (_diagnose if args.diagnose else _stop)(args, opened, data, meter)


@contextmanager
def _progress(args, meter, total: int) -> Iterator:
    from trm_jax.train.progress import Progress

    with closing(Progress(f"eval {args.run_dir.name}", total)) as progress:

        def on_part(done: int, _: int) -> None:
            meter.tick()
            progress.step(done)

        yield on_part
        progress.step(total)


def _record(opened, data, **more) -> dict:
    return {"step": opened.step, "weights": opened.weights, "eval_set": data.digest, **more}


def _stop(args, opened, data, meter) -> int:
    """Print and record what early exit scores and takes."""
    from trm_jax.evals.runner import Evaluator
    from trm_jax.evals.until_done import UntilDone

    cfg, headline, steps = opened.cfg, opened.cfg.task.headline, args.steps
    until = UntilDone(cfg, data, opened.mesh, args.stop_at, *steps)
    until(opened.params, first=1)  # so that no compilation is timed
    with _progress(args, meter, until.total) as on_part:
        began = time.monotonic()
        found, scores = until(opened.params, on_part)
        seconds = time.monotonic() - began
    record = _record(opened, data, kind="early_exit", stop_at=args.stop_at, supervision_steps=until.steps)
    # Under a name of their own: they are not the scores of record.
    record |= {"count": until.total, "scores": scores, "steps": float(found.steps.mean())}
    record |= {"never_stopped": float(1 - found.stopped.mean()), "seconds": seconds}
    print(
        f"checkpoint {opened.step} of {args.run_dir}, {opened.weights} weights, at most {until.steps} supervision steps"
    )
    for name, value in scores.items():
        print(f"{name.replace('_', ' '):<17}{value:.4f}" + f"  on {until.total} puzzles" * (name == headline))
    if headline not in scores:
        print("no score: the answers to some puzzles are not known")
    never = f"{record['never_stopped']:.4f} of the puzzles never stop"
    print(f"{'steps':<17}{record['steps']:.4f}  on average, stopping at {args.stop_at}; {never}")
    print(f"{'puzzles/s':<17}{until.total / seconds:.1f}  {seconds:.3f} s in all, compilation not counted")
    if args.against_full:
        evaluator = Evaluator(cfg, data, opened.mesh, *steps)
        evaluator(opened.params, first=1)
        with _progress(args, meter, evaluator.num_batches) as on_part:
            began = time.monotonic()
            full = evaluator(opened.params, on_part)
            taken = time.monotonic() - began
        record["full"] = {"seconds": taken, "score": full.get(headline)}
        score = f"{headline.replace('_', ' ')} {full[headline]:.4f}, " if headline in full else ""
        print(f"{'at all steps':<17}{score}{taken:.3f} s, {taken / seconds:.2f} times as long")
    append_line(args.run_dir / "evals.jsonl", json.dumps(record))
    print(f"next: {command('eval', args.run_dir, '--diagnose')}", file=sys.stderr)
    return 0


def _diagnose(args, opened, data, meter) -> int:
    """Print what happens while it thinks; write RUN/diagnostics.json and .png."""
    from trm_jax.evals.diagnose import Diagnosis, headline
    from trm_jax.reports.diagnosis import page as diagnosis_page
    from trm_jax.reports.diagnostics import panels
    from trm_jax.reports.pictures import panels_png
    from trm_jax.tasks.pictures import write_picture
    from trm_jax.train.writers import DIAGNOSTICS

    cfg, diagnosis = opened.cfg, Diagnosis(opened.cfg, opened.mesh, *args.steps)
    batches, training = diagnosis.batches(data), _originals(opened)
    with _progress(args, meter, batches.num_batches) as on_part:
        sums, rows = diagnosis.measure(opened.params, batches, on_part)
    if training is not None:
        _, training = diagnosis.measure(opened.params, diagnosis.batches(training, batches.total))
    strata = cfg.task.strata(cfg.data, data) if hasattr(cfg.task, "strata") else {}
    page = _record(opened, data, score=headline(cfg.task), **diagnosis_page(sums, rows, strata, training))
    if not page["held_out"]["n"]:
        raise InputError("the answers to these puzzles are not known, so there is nothing to hold q and steps against")
    file, picture = args.run_dir / DIAGNOSTICS, args.run_dir / "diagnostics.png"
    write_whole(file, json.dumps(page).encode() + b"\n")
    title = f"{cfg.name}, checkpoint {opened.step}, {page['held_out']['n']:,} puzzles"
    write_picture(picture, ".png", panels_png(panels({cfg.name: [page]}), title))
    print(f"checkpoint {opened.step} of {args.run_dir}, {opened.weights} weights, {diagnosis.steps} supervision steps")
    print("\n".join(_lines(page, cfg.scored)))
    print(f"diagnostics: {file}, {picture}")
    print(f"next: {command('report', args.run_dir)}", file=sys.stderr)
    return 0


def _originals(opened):
    """The training puzzles of a run, None where its task cannot give them."""
    from trm_jax.evals.diagnose import Originals

    trained = opened.trained
    try:
        train = trained.task.load(trained.data)[0] if trained.task is opened.cfg.task else None
    except InputError as error:
        print(f"note: no score of training puzzles: {error}", file=sys.stderr)
        return None
    return Originals(train.info, train.pool) if hasattr(train, "pool") else None


def _lines(page: dict, scored: str) -> Iterator[str]:
    score = page["score"].replace("_", " ")

    def said(value: float | None, digits: int = 4) -> str:
        return "-" if value is None else f"{value:.{digits}f}"

    def of(found: dict) -> str:
        return f"{said(found['score'])}  [{said(found['low'])}, {said(found['high'])}] of {found['n']:,}"

    yield f"{score:<17}{of(page['held_out'])} {scored} puzzles"
    if "training" in page:
        yield f"{'':<17}{of(page['training'])} training puzzles"
    yield f"{'step':<6}{'latents move':>14}{'tokens change':>15}{score:>18}{'q_halt > 0':>12}"
    columns = (page["by_step"][name] for name in ("residual", "changed", "score", "halts"))
    for step, (residual, changed, so_far, halts) in enumerate(zip(*columns, strict=True), 1):
        yield f"{step:<6}{said(residual, 3):>14}{said(changed, 2):>15}{said(so_far):>18}{said(halts):>12}"
    found = page["settling"]
    both = f"{score} {said(found['score_settled'])}, of the others {said(found['score_wandering'])}"
    yield f"{'settled':<17}{said(found['settled'])}  of the rows: {both}"
    for rule, stopped in page["stopping"].items():
        after = f"after {said(stopped['steps'], 2)} steps; {said(stopped['stopped'])} of the rows stop"
        yield f"{'stop at ' + rule:<17}{said(stopped['score'])}  {after}"
    q = page["calibration"]
    yield f"{'q':<17}calibration error {said(q['ece'])}, Brier {said(q['brier'])}, AUROC {said(q['auroc'])}"
    for name, parts in page["strata"].items():
        for part in parts:
            yield f"{name} {part['from']:g} to {part['to']:g}: {of(part)}"
