"""Several processes that train one run: what they tell each other, the step at which all stop, how they end together.

They speak through the key-value store of JAX's coordination service, to which `rendezvous` connects them. A process
that dies is noticed by that service, which then ends the others.
"""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime

from jax.errors import JaxRuntimeError

from trm_jax.errors import InputError, OutOfReach
from trm_jax.storage.bucket import problem as storage_problem

_STOP, _ENDED = "trm/stop", "trm/ended"
# Under this key JAX's preemption service tells all processes that one got SIGTERM; the value is when it will end.
_PREEMPTION_NOTICE = "RECEIVED_PREEMPTION_NOTICE"


class Elsewhere(RuntimeError):
    """Another process could not do what all wait for; its own error says why."""


class ProcessGroup:
    """The processes of one run, seen from one of them; without arguments, of a process that is alone.

    Every process makes the same calls of `gather`, `share` and `stop_agreed` in the same order.

    Attributes: index and count of the processes; first: whether this is process 0, which writes what is written once;
    stop_reason: why `stop_agreed` is true, "SIGTERM at process 3 (...)".
    """

    def __init__(self, index: int = 0, count: int = 1, client=None, preemption=None):
        """client: of JAX's coordination service. preemption: the manager of its preemption sync points."""
        self.index, self.count, self.first, self.stop_reason = index, count, index == 0, ""
        self._client, self._preemption = client, preemption
        self._gathers = self._calls = 0
        self._requested = False
        self._names: list[str] = self.gather(f"process {index} ({socket.gethostname()}, pid {os.getpid()})")

    def name(self, index: int | None = None) -> str:
        """A process as people know it, "process 3 (host, pid 123)"; without an index, this one."""
        return self._names[self.index if index is None else index]

    def gather(self, value) -> list:
        """The values that all processes gave, by process. Anything JSON can hold."""
        if self.count == 1:
            return [value]
        place, before = f"trm/gather/{self._gathers}/", f"trm/gather/{self._gathers - 1}/"
        self._gathers += 1
        self._client.key_value_set(f"{place}{self.index}", json.dumps(value))
        if not self.first:
            return json.loads(self._get(f"{place}all"))
        values = [json.loads(self._get(f"{place}{index}")) for index in range(self.count)]
        self._client.key_value_set(f"{place}all", json.dumps(values))
        self._client.key_value_delete(before)  # all are past it, for they have given the next value
        return values

    def share(self, make: Callable[[], object]):
        """What `make` returns at process 0, at every process; the others do not call it.

        Where it raises, all do: the others InputError and OutOfReach like process 0, Elsewhere for any other error.
        """
        made = problem = said = None
        if self.first:
            try:
                made = make()
            except Exception as error:  # noqa: BLE001 - raised below, once every process knows of it
                problem, told = error, storage_problem(error) or error
                said = str(told) or type(told).__name__, isinstance(told, InputError), isinstance(told, OutOfReach)
        made, said = self.gather([made, said])[0]
        if problem:
            raise problem
        if said:
            line, bad_input, out_of_reach = said
            kind = InputError if bad_input else OutOfReach if out_of_reach else Elsewhere
            raise kind(f"{line}, says {self.name(0)}")
        return made

    def stop_agreed(self, requested: str = "") -> bool:
        """Whether all stop here: true from one call on, which is the same for all and comes soon after a request.

        requested: the signal by which this process was asked to stop, "" while it was not. Nothing is sent until one
        was: a call costs less than a microsecond.
        """
        if self.count == 1:
            self.stop_reason = self.stop_reason or requested
            return bool(self.stop_reason)
        self._calls += 1
        if requested and not self._requested:
            self._requested = True
            self._set_once(_STOP, f"{requested} at {self.name()}")
            self._set_once(_PREEMPTION_NOTICE, datetime.now(UTC).isoformat())
        if not self.stop_reason and self._preemption.reached_sync_point(self._calls):
            self.stop_reason = self._client.key_value_try_get(_STOP)
        return bool(self.stop_reason)

    def lost(self, timeout_s: float) -> str:
        """Wait, once, until all have called this or the time is up; the process that JAX then says is lost, or ""."""
        try:
            self._client.wait_at_barrier("trm/all", int(1000 * timeout_s))
        except JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" in str(error):
                return ""
            named = re.search(r"\bTask (\d+) ", str(error))
            return self.name(int(named[1])) if named else "another process"
        return ""

    def ended(self, wait_s: float = 0.5) -> tuple[int, str] | None:
        """Exit code and error line of the process that left first; None when none has left within `wait_s` seconds."""
        with suppress(JaxRuntimeError):
            return tuple(json.loads(self._client.blocking_key_value_get(_ENDED, int(1000 * wait_s))))
        return None

    def leave(self, code: int, line: str) -> None:
        """Before this process ends with an error: the others, which would wait for it, end with `code` and `line` too.

        Process 0 holds the store, so it waits until they have read that, 20 s at most.
        """
        self._set_once(_ENDED, json.dumps([code, line]))
        self._set_once(f"trm/left/{self.index}", "")
        with suppress(JaxRuntimeError):
            for other in range(1, self.count if self.first else 1):
                self._client.blocking_key_value_get(f"trm/left/{other}", 20_000)

    def _set_once(self, key: str, value: str) -> None:
        """Whoever comes first is heard; without the store this process will be ended, and need not say more."""
        with suppress(JaxRuntimeError):
            self._client.key_value_set(key, value)

    def _get(self, key: str) -> str:
        while True:
            try:
                return self._client.blocking_key_value_get(key, 1000)  # a second: Ctrl-C is to be heard
            except JaxRuntimeError as error:
                if "DEADLINE_EXCEEDED" not in str(error):
                    raise
                if self.ended():
                    raise Elsewhere("another process has ended") from None
