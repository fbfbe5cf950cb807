"""`trm` in processes of its own that start at once: forked from one that has imported everything and done nothing.

A fork of a process without threads, and with no JAX backend yet, is as good as a fresh `python -m trm_jax`; it only
spares the seconds of importing. That neither is there is checked before the first fork.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@dataclass
class Result:
    """How a process ended: exit code (negative: the signal that killed it) and what it printed."""

    code: int
    out: str
    err: str

    @property
    def error_lines(self) -> list[str]:
        """The lines of standard error that begin with `error:`."""
        return [line for line in self.err.splitlines() if line.startswith("error:")]


class Process:
    """A running `trm`."""

    def __init__(self, server: Server, pid: int, out: Path, err: Path):
        self._server, self.pid, self._out, self._err = server, pid, out, err

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)

    def alive(self) -> bool:
        """False once it has ended, collected or not."""
        return Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"

    def printed(self) -> str:
        """What it has written to standard error so far."""
        return self._err.read_text()

    def until(self, condition, poll_s: float = 0.002) -> bool:
        """Wait for `condition()`; False when the process ended before."""
        while not condition():
            if not self.alive():
                return False
            time.sleep(poll_s)
        return True

    def wait(self) -> Result:
        code = self._server.ask({"wait": self.pid})["code"]
        return Result(code, self._out.read_text(), self._err.read_text() if self._err.is_file() else "")


class Server:
    """The process that forks. `folder` takes what the children print, `cache` their compilations.

    settings: of the environment, besides those of this process.
    """

    def __init__(self, folder: Path, cache: Path, settings: dict[str, str] | None = None):
        environment = {
            **os.environ,
            **(settings or {}),
            "PYTHONPATH": str(ROOT),
            "JAX_COMPILATION_CACHE_DIR": str(cache),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
        self._folder, self._count = folder, 0
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def ask(self, request: dict) -> dict:
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def start(
        self, *argv, stdin: str = "", terminal: str = "", uid: int = 0, max_file_bytes: int = 0, cwd: Path | None = None
    ) -> Process:
        """Start `trm ARGV`. `terminal`: the device that standard error is; `uid`: whose process it becomes."""
        self._count += 1
        out, err = (self._folder / f"{self._count}.{name}" for name in ("out", "err"))
        (self._folder / f"{self._count}.in").write_text(stdin)
        request = {
            "argv": [str(a) for a in argv],
            "streams": [str(self._folder / f"{self._count}.in"), str(out), terminal or str(err)],
            "uid": uid,
            "max_file_bytes": max_file_bytes,
            "cwd": str(cwd or self._folder),
        }
        for path in (out, err):
            path.touch()
        return Process(self, self.ask(request)["pid"], out, err)

    def run(self, *argv, **how) -> Result:
        return self.start(*argv, **how).wait()

    def close(self) -> None:
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()


def _become_trm(request: dict) -> None:
    """In the child: take the streams, the limits and the user, then be `trm` to the end of the interpreter."""
    from trm_jax.cli.main import entry

    for number, path in enumerate(request["streams"]):
        descriptor = os.open(path, os.O_RDONLY if number == 0 else os.O_RDWR | os.O_NOCTTY)
        os.dup2(descriptor, number)
        os.close(descriptor)
    sys.stdin = open(0, closefd=False)
    # As from a terminal: what a shell starts in the background, this suite perhaps, ignores it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(request["cwd"])
    if request["max_file_bytes"]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["max_file_bytes"],) * 2)
    if request["uid"]:
        os.setgroups([])
        os.setresgid(*(request["uid"],) * 3)
        os.setresuid(*(request["uid"],) * 3)
    sys.argv = ["trm", *request["argv"]]
    entry()


def _serve() -> None:
    import matplotlib.figure
    import tensorboardX
    from jax._src import xla_bridge

    import trm_jax.cli.health.devices
    import trm_jax.configs.registry
    import trm_jax.configs.workdir
    import trm_jax.distributed.rendezvous
    import trm_jax.models.convert.torch_format
    import trm_jax.reports.curves
    import trm_jax.tasks.sudoku.pictures
    import trm_jax.tasks.sudoku.source
    import trm_jax.train.loop
    import trm_jax.train.restore
    from trm_jax.cli.main import parser

    parser()  # imports every command
    trm_jax.distributed.rendezvous.LOST_AFTER_S = 10  # nobody wants to wait for half a minute here
    trm_jax.configs.registry.catalogue()  # a child may be a user who cannot read the checkout
    if "STORAGE_EMULATOR_HOST" in os.environ:
        import gcsfs
        import google.cloud.storage

        assert gcsfs and google.cloud.storage
    assert matplotlib.figure and tensorboardX and trm_jax.train.restore
    threads = next(line for line in open("/proc/self/status") if line.startswith("Threads:"))
    assert threads.split()[1] == "1" and not xla_bridge.backends_are_initialized(), threads
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            _, status = os.waitpid(request["wait"], 0)
            answer = {"code": os.waitstatus_to_exitcode(status)}
        else:
            pid = os.fork()
            if pid == 0:
                _become_trm(request)
            answer = {"pid": pid}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    _serve()
