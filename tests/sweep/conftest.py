"""`trm` in processes of its own, and sweeps whose runs are lines for a shell."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.processes import Server
from trm_jax.configs.defaults import defaults
from trm_jax.sweep.run import Run, State, read
from trm_jax.sweep.runner import Runner
from trm_jax.train.stopping import StopRequest


@pytest.fixture(scope="session")
def trm(tmp_path_factory, compilations) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("processes"), compilations)
    yield server
    server.close()


class StopOnce(StopRequest):
    """Stops a sweep as soon as `condition`, which is asked several times a second, is true."""

    def __init__(self, condition: Callable[[], bool]):
        super().__init__()
        self._condition = condition

    def __bool__(self) -> bool:
        self.name = self.name or "SIGTERM" * self._condition()
        return bool(self.name)


@dataclass
class Shell:
    """Runs lines for a shell as a sweep would run `trm`."""

    root: Path
    lines: list[str] = field(default_factory=list)
    stop: StopRequest = field(default_factory=StopRequest)

    def runs(self, scripts: dict[str, str]) -> list[Run]:
        return [Run(name, 0, self.root / name, defaults(), (script,)) for name, script in scripts.items()]

    def sweep(self, scripts: dict[str, str], *, slots=1, **how) -> dict[str, dict]:
        """Run them to their end; the entries of sweep.json afterwards."""
        self.root.mkdir(exist_ok=True)
        runs = self.runs(scripts)
        places = slots if isinstance(slots, list) else [{}] * slots
        how = {"retries": 2, "pause_s": 0.05, "launch": ["sh", "-c"], **how}
        Runner(State(self.root, runs), places, stop=self.stop, say=self.lines.append, **how).run(runs)
        return read(self.root)


@pytest.fixture
def shell(tmp_path) -> Shell:
    return Shell(tmp_path / "root")
