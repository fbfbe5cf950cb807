"""How well does `trm solve` learn forms of a run's tasks that the run has never seen?

python -m benchmarks.arc_unseen runs/arc_small
python -m benchmarks.arc_unseen runs/arc_small --ask demonstration --adapt all

Each tested task is written as a file under the first augmentation that the run does not train on. It asks the task's
own test pairs, or, held out, its last demonstration. `trm solve` learns embeddings for these files from the
demonstrations in them, and answers.
"""

import argparse
import contextlib
import json
import sys
import tempfile
from pathlib import Path

import numpy as np

from trm_jax.cli.main import main as trm
from trm_jax.cli.runs import add_run
from trm_jax.configs import resolve, workdir


def write_unseen(cfg, folder: Path, ask: str) -> int:
    """Files of the tested tasks in `folder`, under an augmentation that is not trained; how many."""
    from trm_jax.tasks.arc.augment import augmentations
    from trm_jax.tasks.dihedral import dihedral

    _, test = cfg.task.load(cfg.data)
    count = 0
    for number, (name, task) in enumerate(test.data.tasks.items()):
        symmetries, colors = augmentations(task, cfg.data.augmentations + 1, cfg.data.seed, number)
        if name not in test.tasks or len(symmetries) <= cfg.data.augmentations + 1:
            continue
        asked, shown = (task.test, task.train) if ask == "test" else (task.train[-1:], task.train[:-1])
        if not shown:
            continue

        def form(grid, how=(symmetries[-1], colors[-1])):
            return dihedral(how[1][grid].astype(np.uint8), int(how[0])).tolist()

        sides = {"train": shown, "test": asked}
        pairs = {
            side: [{"input": form(pair.input), "output": form(pair.output)} for pair in sides[side]] for side in sides
        }
        (folder / f"{name}.json").write_text(json.dumps(pairs))
        count += 1
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_run(parser)
    parser.add_argument("--ask", choices=("test", "demonstration"), default="test")
    parser.add_argument("--adapt", choices=("embedding", "all"), default="embedding")
    parser.add_argument("--adapt-steps", default="300")
    parser.add_argument("--augmentations", default="3", help="of each file, besides itself (3)")
    args = parser.parse_args()
    cfg = resolve.freeze(workdir.load_config(args.run_dir))
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / f"unseen_{args.ask}"
        folder.mkdir()
        count = write_unseen(cfg, folder, args.ask)
        how = ["--adapt", args.adapt, "--adapt-steps", args.adapt_steps, "--augmentations", args.augmentations]
        with contextlib.redirect_stdout(sys.stderr):
            trm(["solve", str(args.run_dir), str(folder), *how])
        found = (args.run_dir / "unseen").glob(f"{folder.name}-*/predictions.jsonl")
        predictions = max(found, key=lambda file: file.stat().st_mtime)  # of now: each way has a folder of its own
        print(f"{count} tasks under an augmentation that {args.run_dir} has not seen; asked: {args.ask}")
        trm(["arc", "score", str(predictions), "--data", str(folder)])


if __name__ == "__main__":
    main()
