"""Real runs of tiny models in a sweep that is killed, stopped and starved."""

import json
import os
import random
import re
import shlex
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest

from tests import tiny
from trm_jax.sweep.run import STATE_FILE, read

# Long enough to be met while it trains; the pictures of TensorBoard and of each evaluation would only take time.
CHANGES = {
    "train.steps": 1000,
    "checkpoint.every_steps": 20,
    "eval.every_steps": 1000,
    "log.every_steps": 10,
    "log.tensorboard": False,
}
SETTINGS = [text for text in tiny.arguments(CHANGES) if not text.startswith("seed=")]


def command(root: Path, *words: str) -> list[str]:
    return ["sweep", *words, "--root", str(root), *SETTINGS]


def states(root: Path) -> dict[str, tuple[str, list[int]]]:
    return {name: (entry["state"], entry["exit_codes"]) for name, entry in read(root).items()}


def saved(workdir: Path, step: int) -> bool:
    """Whether a checkpoint of `step` or a later one is whole."""
    return (workdir / "checkpoints").exists() and max(tiny.steps(workdir), default=0) >= step


def child_of(pid: int) -> int:
    """The process that a sweep has started."""
    [child] = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(child)


def gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


@pytest.fixture(scope="module")
def reference(trm, tmp_path_factory):
    """What the experiment ends with when nobody disturbs it and no sweep is about."""
    workdir = tmp_path_factory.mktemp("reference") / "run"
    result = trm.run("train", "demo", "--workdir", workdir, *SETTINGS)
    assert result.code == 0, result.err
    return workdir


class Reader(threading.Thread):
    """Reads sweep.json all the time, from its first moment on: every time it must be valid."""

    def __init__(self, root: Path):
        super().__init__()
        self._file, self._over, self.reads, self.broken = root / STATE_FILE, threading.Event(), 0, []

    def run(self):
        while not self._over.wait(0.005):
            if self._file.exists():
                text = self._file.read_text()
                self.reads += 1
                try:
                    assert json.loads(text)["runs"]
                except (ValueError, KeyError, AssertionError):
                    self.broken.append(text)

    def close(self):
        self._over.set()
        self.join()


@pytest.fixture
def reader(tmp_path):
    found = Reader(tmp_path / "root")
    found.start()
    yield found
    found.close()
    assert found.reads > 100 and not found.broken


@pytest.mark.slow
def test_a_sweep_that_is_killed_and_stopped_loses_nothing(trm, reference, reader, tmp_path):
    """kill -9 of the child, then of the sweep, then SIGTERM, each time the same command: as if nothing had happened."""
    root = tmp_path / "root"
    demo, sweep = root / "demo-seed0", command(root, "demo", "--seeds", "0")
    process = trm.start(*sweep)
    assert process.until(lambda: saved(demo, 20))
    os.kill(child_of(process.pid), signal.SIGKILL)
    before = max(tiny.steps(demo))
    assert process.until(lambda: saved(demo, before + 20))
    assert states(root)["demo-seed0"] == ("running", [-9])
    child = child_of(process.pid)
    process.kill()
    assert process.wait().code == -signal.SIGKILL

    # The orphan saves and leaves; the next sweep waits for that by itself.
    process = trm.start(*sweep)
    assert process.until(lambda: gone(child))
    before = max(tiny.steps(demo))
    assert process.until(lambda: saved(demo, before + 20))
    process.signal(signal.SIGTERM)
    result = process.wait()
    assert result.code == 75, result.err
    assert "SIGTERM: the runs save and stop" in result.err
    assert states(root) == {"demo-seed0": ("stopped", [-9, 75])}
    following = result.out.splitlines()[-1].partition("   (")[0]
    assert following == f"next: {shlex.join(['trm', *sweep])}"

    result = trm.run(*sweep)
    assert result.code == 0, result.err
    assert states(root) == {"demo-seed0": ("done", [-9, 75, 0])}
    log = (demo / "log.txt").read_text()
    assert log.count("going on from step") == 3 and log.count("--- ") == 4
    tiny.assert_same_end(reference, demo)

    result = trm.run(*sweep)
    assert result.code == 0 and "started" not in result.err
    assert re.search(r"demo-seed0 +done +1000/1000 +exact accuracy \d\.\d{4}", result.out)
    assert result.out.splitlines()[-2:] == ["1 of 1 done", f"next: trm report demo --root {root}"]


def test_a_run_that_cannot_be_saved_does_not_touch_what_is_done(trm, reference, tmp_path):
    """A limit on the size of files, as shared machines have it. (Full disks: test_runner.py and tests/train.)"""
    root = tmp_path / "root"
    shutil.copytree(reference, root / "demo")
    result = trm.run(*command(root, "demo", "sudoku4"), max_file_bytes=20_000)
    assert result.code == 1, result.err
    assert "Traceback" not in result.err
    assert "sudoku4: refused, a file would be larger than the limit on file sizes" in result.err
    assert f"next: less {root}/sudoku4/log.txt" in result.out.splitlines()[-1]
    assert states(root) == {"demo": ("done", []), "sudoku4": ("refused", [2])}
    tiny.assert_same_end(reference, root / "demo")


@pytest.mark.slow
def test_many_kills_at_random_moments(trm, reference, reader, tmp_path):
    """Sweeps of two runs side by side, killed or with a child killed, until both are done."""
    draw, root = random.Random(5), tmp_path / "root"
    sweep = [*command(root, "demo", "sudoku4"), "--retries", "9", "--jobs", "2"]

    def let_live(process, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        process.until(lambda: time.monotonic() > deadline)

    for _ in range(8):
        process = trm.start(*sweep)
        let_live(process, draw.uniform(0, 12))
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        if children and draw.random() < 0.5:
            os.kill(int(draw.choice(children)), signal.SIGKILL)
            let_live(process, 3)
        if process.alive():
            process.kill()
        if process.wait().code == 0:
            break
    result = trm.run(*sweep)
    assert result.code == 0, result.err
    for name in ("demo", "sudoku4"):
        assert tiny.steps(root / name) == tiny.steps(reference)
        assert tiny.records(root / name)[-1]["step"] == 1000
