"""A trace of a few training steps, for TensorBoard and Perfetto."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import jax

from trm_jax.storage.paths import AnyPath, write_whole

FOLDER = "profile"  # in a run's folder
_WARM_UP = 3  # steps that compile and fill the queues


class Profile:
    """Traces `steps` steps (0 = none) of this process, `_WARM_UP` after step `start`, and keeps them in `workdir`."""

    def __init__(self, workdir: AnyPath, steps: int, start: int, say: Callable[[str], None], quiet: bool):
        self._workdir, self._say = workdir, say
        self._traced = range(0) if quiet else range(start + _WARM_UP, start + _WARM_UP + steps)
        self._folder: tempfile.TemporaryDirectory | None = None

    def before(self, step: int, state) -> None:
        """Called before update number `step` + 1; where the trace begins or ends it waits for `state`."""
        begins, goes_on = step in self._traced, self._folder is not None
        if begins == goes_on:
            return
        jax.block_until_ready(state)
        if begins:
            self._folder = tempfile.TemporaryDirectory(prefix="trm_")
            jax.profiler.start_trace(self._folder.name)
        else:
            self.close()

    def close(self) -> None:
        """End a trace that goes on, and keep it."""
        if self._folder is None:
            return
        with self._folder as folder:
            self._folder = None
            jax.profiler.stop_trace()
            for file in (path for path in Path(folder).rglob("*") if path.is_file()):
                write_whole(self._workdir / FOLDER / file.relative_to(folder).as_posix(), file.read_bytes())
        self._say(f"the profile is in {self._workdir / FOLDER}: tensorboard --logdir {self._workdir / FOLDER}")
