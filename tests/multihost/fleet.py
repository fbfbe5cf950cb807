"""Processes that train together, as if each were a host."""

from __future__ import annotations

import random
import re
import socket
import time
from dataclasses import dataclass
from pathlib import Path

from tests import tiny
from tests.processes import Process, Result, Server

# Small steps keep the rounding of another number of devices small: see tests/train/test_devices.py.
CHANGES = {
    **{"optim.warmup_steps": 1000, "train.steps": 12, "log.every_steps": 1, "data.test_puzzles": 13},
    **{"checkpoint.every_steps": 4, "checkpoint.keep_every_steps": 4},
}


def _changes(more: dict | None) -> dict:
    """CHANGES and more; of another task only what is said of it."""
    more = more or {}
    return {
        key: value for key, value in CHANGES.items() if "data.task" not in more or not key.startswith("data.")
    } | more


def free_port() -> int:
    """A port that is free, and not one that the system gives to connections by itself (from 32768 on)."""
    while True:
        port = random.SystemRandom().randrange(10240, 32000)
        try:
            socket.create_server(("", port)).close()
            return port
        except OSError:
            continue


@dataclass
class Fleet:
    """Started processes, by number."""

    processes: list[Process]

    def __getitem__(self, number: int) -> Process:
        return self.processes[number]

    def wait(self) -> list[Result]:
        return [process.wait() for process in self.processes]

    def until_step(self, workdir: Path, step: int) -> None:
        """Until the run has logged `step`, or a process has ended."""
        pattern = re.compile(rf'"step": {step}\b')

        def logged():
            file = workdir / "metrics.jsonl"
            return file.exists() and pattern.search(file.read_text()) or not all(p.alive() for p in self.processes)

        self.processes[0].until(logged, poll_s=0.01)


class Hosts:
    """Starts fleets."""

    def __init__(self, server: Server):
        self._server = server

    def start_one(self, number: int, count: int, port: int, workdir: Path, changes=None, *more, cwd=None) -> Process:
        """One process of a fleet."""
        return self._server.start(
            "train",
            "demo",
            "--workdir",
            workdir,
            *tiny.arguments(_changes(changes)),
            *("--coordinator", f"127.0.0.1:{port}", "--processes", count, "--process", number),
            *("--startup-timeout", 120, *more),
            cwd=cwd,
        )

    def start(self, count: int, workdir: Path, changes=None, *more) -> Fleet:
        port = free_port()
        return Fleet([self.start_one(number, count, port, workdir, changes, *more) for number in range(count)])

    def run(self, count: int, workdir: Path, changes=None) -> list[Result]:
        """To the end; one process is started as one that knows of no others."""
        if count == 1:
            settings = tiny.arguments(_changes(changes))
            return [self._server.run("train", "demo", "--workdir", workdir, *settings)]
        return self.start(count, workdir, changes).wait()

    def must_finish(self, count: int, workdir: Path, changes=None) -> None:
        for result in self.run(count, workdir, changes):
            assert result.code == 0, result.err


def all_gone(fleet: Fleet, within_s: float) -> float:
    """Seconds until all processes have ended; fails when some have not `within_s`."""
    began = time.monotonic()
    while any(process.alive() for process in fleet.processes):
        assert time.monotonic() - began < within_s, "a process is still there"
        time.sleep(0.02)
    return time.monotonic() - began
