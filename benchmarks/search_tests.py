"""What searches of `trm eval` gave over the seeds of an experiment, held against plain inference at one depth.

    python -m benchmarks.search_tests runs/sudoku6-seed* --steps 8

Reads RUN/evals.jsonl: the last search of each kind that all runs have. Mean and standard deviation over the runs, the
gain over one rollout without noise at --steps, and p of a paired t-test, not corrected for the number of lines.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from scipy.stats import ttest_rel

HOW = ("noise", "noise_on", "last_quiet", "symmetries", "count")
SELECTIONS = ("q", "vote", "residual", "valid")


def searches(run: Path) -> dict[tuple, float]:
    """(how, steps, rollouts, selection) -> score, of the searches of a run."""
    found = {}
    for record in map(json.loads, (run / "evals.jsonl").read_text().splitlines()):
        if record["kind"] == "search":
            how = tuple(str(record[name]) for name in HOW)
            for row in record["table"]:
                found |= {(how, row["steps"], row["rollouts"], name): row[name] for name in SELECTIONS if name in row}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument(
        "--steps", type=int, required=True, help="depth of the plain inference that all is held against"
    )
    args = parser.parse_args()
    of_runs = [searches(run) for run in args.runs]
    shared = [key for key in of_runs[0] if all(key in found for found in of_runs)]
    scores = {key: np.array([found[key] for found in of_runs]) for key in shared}
    plain = [key for key in shared if float(key[0][0]) == 0 and key[1:3] == (args.steps, 1)]
    if not plain:
        parser.error(f"no search without noise that all runs have shows {args.steps} steps; add trm eval RUN --steps")
    base = scores[plain[0]]
    for (how, steps, rollouts, name), values in scores.items():
        said = ", ".join(f"{what} {value}" for what, value in zip(HOW, how, strict=True))
        line = f"{said}: {steps} steps, {rollouts} rollouts, {name}: {values.mean():.4f} ± {values.std(ddof=1):.4f}"
        gain = values - base
        p = f", p = {ttest_rel(values, base).pvalue:.4f}" if np.ptp(gain) else ""
        print(f"{line}, gain {gain.mean():+.4f}{p}")


if __name__ == "__main__":
    main()
