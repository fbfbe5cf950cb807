"""Everything that a GPU at hand for ten minutes can tell, with one command; it needs no network.

    python -m benchmarks.gpu --minutes 9 --output DIR --data FOLDER      # FOLDER/train.csv, FOLDER/test_10k.csv
    python -m benchmarks.gpu --minutes 9 --output DIR2 --data FOLDER --only train --carry-from DIR
    python -m benchmarks.gpu --tiny --minutes 2 --output DIR             # small shapes, on a CPU: shows that it works

Each phase runs in a process of its own for its share of the time: one that crashes, hangs or is cut loses no other.
What was found is written to DIR/gpu.json after every phase. The last phase trains `baseline_768` with the time that is
left and leaves DIR/train.*, from which --carry-from goes on. DIR holds at most 8 files of at most 16 MB.
What a bare CUDA machine with JAX lacks is in benchmarks/gpu_wheels.txt.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# In order of importance, with their shares of the time; what one leaves over is for those after it.
PHASES = {
    "rates": 25,
    "golden": 110,
    "determinism": 50,
    "bench": 110,
    "torch": 110,
    "packed": 50,
    "profile": 25,
    "train": 60,
}
RESULTS = "gpu.json"
_LEAST_S = 5.0  # a phase is not begun for less
_ENDS_WITHIN_S = 10.0  # a process that was told to end


def share(name: str, order: list[str], left: float) -> float:
    """Seconds for a phase when `left` are left for it and those behind it in the order."""
    behind = order[order.index(name) :]
    return left * PHASES[name] / sum(PHASES[one] for one in behind)


def run_phase(name: str, seconds: float, folder: Path, options: list[str]) -> dict:
    """Run one phase in its own process for at most so many seconds; what became of it, and what it found."""
    found, log = folder / f"{name}.json", folder / f"{name}.log"
    command = [sys.executable, "-m", "benchmarks.gpu_phases", name, "--json", str(found)]
    command += ["--seconds", f"{max(seconds - _ENDS_WITHIN_S, seconds / 2):.1f}", *options]
    began = time.monotonic()
    with log.open("wb") as said:
        process = subprocess.Popen(command, cwd=ROOT, stdout=said, stderr=said, start_new_session=True)
        try:
            status = "done" if process.wait(seconds) == 0 else "failed"
        except subprocess.TimeoutExpired:
            status = "cut"
        finally:  # an interruption too leaves no process behind
            if process.poll() is None:
                _end(process)
    result = {"status": status, "limit_s": round(seconds, 1), "wall_s": round(time.monotonic() - began, 1)}
    if found.exists():
        result |= json.loads(found.read_text())
    if status != "done":
        result["said"] = log.read_text(errors="replace")[-3000:]
    return result


def _end(process: subprocess.Popen) -> None:
    """End a process and those it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(2)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue


def commit() -> str:
    """Of the checkout; "unknown" outside one."""
    try:
        told = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
    except OSError:  # there is no git
        return "unknown"
    return told.stdout.strip() or "unknown"


def write(path: Path, results: dict) -> None:
    """Replace the file at once, so that a reader never finds half of it."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(results, indent=1) + "\n")
    part.replace(path)


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=9.0, help="for everything (default: %(default)s)")
    parser.add_argument("--output", type=Path, required=True, help="folder of the results")
    parser.add_argument("--only", nargs="+", choices=PHASES, metavar="PHASE", help=", ".join(PHASES))
    parser.add_argument("--data", type=Path, help="folder of train.csv and test_10k.csv; without it puzzles are made")
    parser.add_argument("--carry-from", type=Path, metavar="DIR", help="go on training from an earlier --output")
    parser.add_argument("--commit", help="of these sources, where git is not there to be asked")
    parser.add_argument("--tiny", action="store_true", help="small shapes: shows that the command works")
    args = parser.parse_args(argv)
    for flag, folder, file in (("--data", args.data, "train.csv"), ("--carry-from", args.carry_from, "train.0")):
        if folder and not (folder / file).is_file():
            parser.error(f"{flag} {folder} holds no {file}{' of an earlier --output' * (file == 'train.0')}")
    return args


def main(argv: list[str] | None = None) -> int:
    args = arguments(argv)
    ends = time.monotonic() + 60 * args.minutes
    args.output.mkdir(parents=True, exist_ok=True)
    order = [name for name in PHASES if not args.only or name in args.only]
    command = "python -m benchmarks.gpu " + shlex.join(sys.argv[1:] if argv is None else argv)
    results = {"command": command, "commit": args.commit or commit(), "minutes": args.minutes, "phases": {}}
    options = ["--output", str(args.output.resolve()), *["--tiny"] * args.tiny]
    for flag, path in (("--data", args.data), ("--carry-from", args.carry_from)):
        options += [flag, str(path.resolve())] if path else []
    with tempfile.TemporaryDirectory() as folder:
        # Programs that are compiled twice are kept for this call only: times of compilation are those of a first one.
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(Path(folder) / "xla")
        for name in order:
            seconds = share(name, order, ends - time.monotonic())
            enough = seconds >= _LEAST_S
            found = run_phase(name, seconds, Path(folder), options) if enough else {"status": "skipped"}
            results["phases"][name] = found
            write(args.output / RESULTS, results)
            print(f"{name}: {found['status']}, {found.get('wall_s', 0):.0f} s", flush=True)
    return 0 if all(found["status"] == "done" for found in results["phases"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
