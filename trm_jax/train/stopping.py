"""Graceful stops: SIGINT and SIGTERM ask, the loop finishes its step, saves and leaves."""

from __future__ import annotations

import signal


class StopRequest:
    """Context in which the first SIGINT or SIGTERM sets `name` and a second SIGINT interrupts at once."""

    def __init__(self):
        self.name = ""
        self._previous = {}

    def __bool__(self) -> bool:
        return bool(self.name)

    def _handle(self, number, frame):
        if self.name and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.name = signal.Signals(number).name

    def __enter__(self):
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *exc):
        for number, handler in self._previous.items():
            signal.signal(number, handler)
