"""`trm arc run`: from nothing to a score with one command: data, training, answers, votes, score, submission, cost.

Each seed is a run of its own in FOLDER/seed_N; the votes of all are pooled, one vote a seed. What is done is not done
again: give the same command after a stop, or with more seeds.
Presets are the experiments arc_transformer_PRESET: low, medium and high want a GPU; small wants half an hour of a
laptop. Public sets that are missing in --data are fetched from their authors' repositories.

examples:
  trm arc run --preset small
  trm arc run --preset low --data arc --drafts
  trm arc run --preset high --seeds 42 43 44 --output runs/high
"""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from trm_jax.cli.arguments import add_documented, add_set, changes, command, local_path, seed, settings
from trm_jax.errors import InputError
from trm_jax.train.writers import PREDICTIONS

_PREFIX = "arc_transformer_"


class Ended(Exception):
    """A stage ended with an exit code that is not 0."""

    def __init__(self, code: int):
        self.code = code


def add_parser(commands) -> None:
    parser = add_documented(commands, "run", run, __doc__)
    parser.add_argument("--preset", required=True, help="low, medium, high, small, or an ablation such as rope1d")
    parser.add_argument("--data", type=local_path, default=Path("arc"), help="folder of the sets (default: arc)")
    parser.add_argument("--seeds", type=seed, nargs="+", metavar="N", help="a run each (default: the preset's own)")
    parser.add_argument("--output", type=local_path, metavar="FOLDER", help="default: runs/arc_run_PRESET")
    parser.add_argument("--drafts", action="store_true", help="answer with drafts, as `trm eval --drafts`")
    add_set(parser)


def run(args) -> int:
    from trm_jax.configs import registry, resolve
    from trm_jax.tasks.arc.fetch import fetch
    from trm_jax.tasks.arc.source import read_set
    from trm_jax.tasks.arc.vote import unknown

    presets = [name.removeprefix(_PREFIX) for name in registry.catalogue() if name.startswith(_PREFIX)]
    if args.preset not in presets:
        raise InputError(f"there is no preset {args.preset!r}; take one of {', '.join(presets)}")
    chosen = [f"data.path={args.data}", *settings(args)]
    if "data.path" in changes(args):
        raise InputError("--set data.path: the sets lie in --data; name the folder there")
    page = resolve.override(registry.get(_PREFIX + args.preset), resolve.parse_assignments(chosen))
    for name in page.data.train_sets.split(","):
        if said := fetch(name.strip(), args.data):
            print(f"note: {said}", file=sys.stderr)
    tasks = read_set(page.data, page.data.test_set)
    folder = args.output or Path("runs") / f"arc_run_{args.preset}"
    seeds = list(dict.fromkeys(args.seeds or [page.seed]))
    runs = [folder / f"seed_{number}" for number in seeds]
    predictions, tested = folder / PREDICTIONS, args.data / page.data.test_set
    try:
        for number, workdir in zip(seeds, runs, strict=True):
            stage("train", _PREFIX + args.preset, "--workdir", workdir, "--set", *chosen, f"seed={number}")
            if not _answered(workdir, page):
                stage("eval", workdir, *["--drafts"] * args.drafts)
        stage("arc", "vote", *(one / PREDICTIONS for one in runs), "--output", predictions, "--force")
        for what, name in (("submit", "submission.json"), ("gallery", "gallery.html")):
            stage("arc", what, predictions, "--data", tested, "--output", folder / name, "--force")
        if all(unknown(task) is None for task in tasks.values()):
            stage("arc", "score", predictions, "--data", tested)
        stage("cost", *runs)
    except Ended as end:
        return end.code
    print(f"done: {folder / 'submission.json'}, {folder / 'gallery.html'}")
    print(f"next: {command('cost', *runs, '--picture', folder / 'cost.png')}", file=sys.stderr)
    return 0


def stage(*words: object) -> None:
    """A command as a process of its own, whose devices are free when it ends. Raises Ended unless its code is 0."""
    print(f"$ {command(*words)}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    # The pipe ends with this process, however it ends; the stage stops then.
    process = subprocess.Popen([sys.executable, "-m", "trm_jax.cli.child", *map(str, words)], stdin=subprocess.PIPE)
    before = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    try:
        code = process.wait()
    except KeyboardInterrupt:  # the terminal has told the stage as well: it saves and ends
        code = process.wait()
    finally:
        signal.signal(signal.SIGTERM, before)
        process.stdin.close()
    if code:
        raise Ended(code if code > 0 else 128 - code)


def _answered(workdir: Path, page) -> bool:
    """Whether the run's predictions are the votes on the answers to all forms, at its last step."""
    from trm_jax.configs.runs import open_run
    from trm_jax.tasks.arc.predictions import read

    file = workdir / PREDICTIONS
    if not file.exists():
        return False
    said = read(file)[0].member.settings
    weights = "ema" if page.optim.ema_decay else "live"
    wanted = {"checkpoints": [open_run(workdir).total_steps], "augmentations": page.data.augmentations}
    return said == {**wanted, "weights": weights}
