"""`trm` in this process and in processes of its own, and a run that has learned to solve 4x4 boards."""

import fcntl
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import tiny
from tests.processes import Result, Server
from trm_jax.cli.main import main


@pytest.fixture(scope="session")
def trm(tmp_path_factory, compilations):
    server = Server(tmp_path_factory.mktemp("processes"), compilations)
    yield server
    server.close()


@dataclass
class Solver:
    """A trained run and puzzles that it is known to solve."""

    workdir: Path
    puzzles: list[str]


@pytest.fixture(scope="session")
def solver(trm, tmp_path_factory) -> Solver:
    """Trained once for all workers of pytest-xdist, whose folders lie side by side."""
    here = tmp_path_factory.getbasetemp()
    shared = here.parent if "PYTEST_XDIST_WORKER" in os.environ else here
    workdir, solved = shared / "solver" / "run", shared / "solver.txt"
    with open(shared / "solver.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not solved.exists():
            solved.write_text("\n".join(_train(trm, workdir)))
    return Solver(workdir, solved.read_text().split())


def _train(trm, workdir: Path) -> list[str]:
    """Train in `workdir`; the held-out puzzles that it solves."""
    result = trm.run("train", "demo", "--workdir", workdir, *tiny.arguments(tiny.SOLVER))
    assert result.code == 0, result.err
    questions = tiny.data(tiny.SOLVER)[1].inputs - 1
    lines = ["".join(map(str, question)).replace("0", ".") for question in questions]
    result = trm.run("solve", workdir, "-", stdin="\n".join(lines))
    verdicts = result.out.splitlines()
    solved = [puzzle for puzzle, verdict in zip(lines, verdicts, strict=False) if verdict.endswith(" solved")]
    assert len(solved) >= 30, f"it has not learned to solve: {verdicts}"
    return solved


@pytest.fixture
def here(capsys, monkeypatch, tmp_path):
    """`trm` in this process, in a folder of its own: for what ends before anything is computed."""
    monkeypatch.chdir(tmp_path)

    def run(*argv) -> Result:
        try:
            code = main([str(a) for a in argv])
        except SystemExit as end:
            code = end.code
        said = capsys.readouterr()
        return Result(code, said.out, said.err)

    monkeypatch.setattr(sys, "argv", ["trm"])
    return run


@pytest.fixture
def refused(here):
    """Run a command line that is wrong: exit code 2 and one line, which is given back."""

    def run(*argv) -> str:
        result = here(*argv)
        assert result.code == 2, (result.code, result.out, result.err)
        lines = result.err.splitlines()
        assert lines[-1:] == result.error_lines, result.err
        assert "Traceback" not in result.err
        return lines[-1].removeprefix("error: ")

    return run
