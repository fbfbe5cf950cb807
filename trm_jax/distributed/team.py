"""Several processes that train one run: they agree on when to stop or save, and notice when one is lost.

Process 0 is the hub of a star of TCP connections (meeting.py makes it), over which lines of JSON go.

A process that ends without having said so is lost to the others at once (its connection closes), one that is stopped or
cut off after `LOST_AFTER_S`. They cannot go on without it: each says who it was and exits.
"""

from __future__ import annotations

import json
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from trm_jax.errors import InputError, OutOfReach
from trm_jax.storage.bucket import problem as storage_problem

EXIT_LOST = 69  # another process is gone; the same command goes on from the last checkpoint
LOST_AFTER_S = 30.0
_BEAT_EVERY_S = 2.0
_CLOSED_WITHIN_S = 5.0
_READ_WITHIN_S = 0.5  # the others have read what they were told last
_RAISED = (OutOfReach, InputError)  # by `share` at every process


class Elsewhere(RuntimeError):
    """Process 0 could not do what all wait for; its own error says why."""


@dataclass(frozen=True)
class Member:
    """A process of the team as the others know it."""

    index: int
    host: str
    pid: int

    def __str__(self) -> str:
        return f"process {self.index} ({self.host}, pid {self.pid})"


class Line:
    """A connection that takes and gives JSON objects, one a line."""

    def __init__(self, connection: socket.socket):
        self._socket, self._reader, self._lock = connection, connection.makefile("r"), threading.Lock()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # Sending to one that stands still must not hold up the thread that would notice it.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(LOST_AFTER_S), 0))
        self.heard = time.monotonic()

    def send(self, **message) -> None:
        with self._lock:
            try:
                self._socket.sendall(json.dumps(message).encode() + b"\n")
            except OSError:
                self.hang_up()  # whoever reads this connection finds it closed, and says so

    def receive(self) -> dict | None:
        """The next message; None, and closed on this side too, once the connection is."""
        try:
            line = self._reader.readline()
            self.heard = time.monotonic()
            if line.endswith("\n"):
                return json.loads(line)
        except (OSError, ValueError):
            line = ""
        self._reader.close()
        self._socket.close()
        return None

    def readable(self, wait_s: float) -> bool:
        """Whether something has come, or the connection was closed, within `wait_s` seconds."""
        return bool(select.select([self._socket], [], [], wait_s)[0])

    def open(self) -> bool:
        """Whether the other side still holds the connection, from which nothing has come yet."""
        return not self.readable(0.0)

    def hang_up(self) -> None:
        """Close the connection; whoever receives is told None."""
        self._shut(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection, from which nobody receives."""
        self.hang_up()
        while self.receive() is not None:
            continue

    def finish(self) -> None:
        """Send nothing more. What the other side still sends can be received: were this side closed before that, the
        other could lose what it has not read yet."""
        self._shut(socket.SHUT_WR)

    def _shut(self, how: int) -> None:
        with suppress(OSError):  # the other side was quicker
            self._socket.shutdown(how)


class Team:
    """The processes of one run, seen from one of them; without arguments, of a process that is alone.

    Every process makes the same calls of `gather`, `share` and `tick` in the same order.
    """

    def __init__(self, index: int = 0, count: int = 1, lines: dict[int, Line] | None = None, members=()):
        """lines: of process 0 to every other, of every other to process 0."""
        self.index, self.count = index, count
        self.members: list[Member] = list(members) or [Member(0, socket.gethostname(), os.getpid())]
        self._lines = lines or {}
        self._changed = threading.Condition(threading.RLock())
        self._left: set[int] = set()  # said goodbye: their connections may close
        self._ending = False  # this process ends by itself, whatever becomes of the others
        self._gathers = 0
        self._given: dict[int, dict[int, object]] = {}  # gather number -> process -> value, at the hub
        self._gathered: dict[int, list] = {}
        self._ticks = 0
        self._frozen = False  # between a proposal and what was agreed, nobody ticks
        self._due: dict[str, list[int]] = {}  # event -> the ticks at which it happens everywhere, in order
        self._reasons: dict[str, str] = {}
        self._asked: list[tuple[str, str]] = []  # events to be agreed on, at the hub
        self._agreed: dict[str, int] = {}  # event -> the last tick agreed on, at the hub
        self._at: dict[int, int] = {}  # process -> its ticks, while an event is being agreed on
        self._listeners = [
            threading.Thread(target=self._listen, args=(other, line), daemon=True)
            for other, line in self._lines.items()
        ]
        for listener in self._listeners:
            listener.start()
        if self._lines:
            threading.Thread(target=self._beat, daemon=True).start()

    @property
    def first(self) -> bool:
        """Whether this is process 0, which writes what is written once."""
        return self.index == 0

    # What the processes tell each other.

    def gather(self, value) -> list:
        """The values that all processes gave, by process. Anything JSON can hold."""
        with self._changed:
            number = self._gathers
            self._gathers += 1
            if not self.first:
                self._lines[0].send(give=number, value=value)
                self._changed.wait_for(lambda: number in self._gathered)
                return self._gathered.pop(number)
            given = self._given.setdefault(number, {})
            given[0] = value
            self._changed.wait_for(lambda: len(given) == self.count)
            values = [given[process] for process in range(self.count)]
            del self._given[number]
            self._tell(gathered=number, values=values)
        return values

    def share(self, make: Callable[[], object]):
        """What `make` returns at process 0, at every process; the others do not call it.

        Where it raises, all do, for they must go on alike: the others InputError and OutOfReach like process 0, and
        Elsewhere for any other error.
        """
        made = problem = None
        if self.first:
            try:
                made = make()
            except Exception as error:  # noqa: BLE001 - raised below, once every process knows of it
                problem = error
        told = problem and (storage_problem(problem) or problem)
        kind = next((i for i, kind in enumerate(_RAISED) if isinstance(told, kind)), len(_RAISED))
        made, said = self.gather([made, told and [kind, str(told) or type(told).__name__]])[0]
        if problem:
            raise problem
        if said:
            raise (*_RAISED, Elsewhere)[said[0]](f"{said[1]}, says {self.members[0]}")
        return made

    # What they agree on.

    def ask(self, event: str, reason: str = "") -> None:
        """Wish for `event` at a tick that is the same for all and comes soon. Once asked, asking again does nothing."""
        with self._changed:
            if event in self._reasons:
                return
            self._reasons[event] = reason
            if self.first:
                self._propose(event, reason, self._ticks)
            else:
                self._lines[0].send(ask=event, reason=f"{reason} at {self.members[self.index]}", tick=self._ticks)

    def tick(self) -> frozenset[str]:
        """The events that happen now. "stop" goes on happening; any other happens once and can be asked for again."""
        with self._changed:
            self._changed.wait_for(lambda: not self._frozen)
            self._ticks += 1
            now = frozenset(event for event, ticks in self._due.items() if ticks[0] <= self._ticks)
            for event in now - {"stop"}:
                self._due[event].pop(0)
                if not self._due[event]:
                    del self._due[event], self._reasons[event]
            return now

    def reason(self, event: str) -> str:
        """Why `event` was asked for, as the one that asked first put it."""
        return self._reasons.get(event, "")

    def _propose(self, event: str, reason: str, tick: int) -> None:
        """At the hub: ask where everyone is, one event at a time. tick: where the one is that wishes for it."""
        if any(event == asked for asked, _ in self._asked) or self._agreed.get(event, 0) > tick:
            return  # it will happen there, after this wish
        self._asked.append((event, reason))
        if len(self._asked) == 1:
            self._begin_agreement()

    def _begin_agreement(self) -> None:
        self._frozen, self._at = True, {0: self._ticks}
        self._tell(where=True)
        self._end_agreement()

    def _end_agreement(self) -> None:
        """At the hub, once all have said where they are: the event happens at the tick after the furthest."""
        if len(self._at) < self.count:
            return
        event, reason = self._asked.pop(0)
        tick = self._agreed[event] = max(self._at.values()) + 1
        self._tell(due=event, tick=tick, reason=reason)
        self._agree(event, tick, reason)
        if self._asked:
            self._begin_agreement()

    def _agree(self, event: str, tick: int, reason: str) -> None:
        self._due.setdefault(event, []).append(tick)
        self._reasons[event], self._frozen = reason, False
        self._changed.notify_all()

    # How they notice what becomes of each other.

    def _tell(self, **message) -> None:
        for other, line in self._lines.items():
            if other not in self._left:
                line.send(**message)

    def _listen(self, other: int, line: Line) -> None:
        why = "its connection closed"
        while (message := line.receive()) is not None:
            try:
                with self._changed:
                    self._take(other, message)
            except (KeyError, TypeError, AttributeError) as error:
                why = f"it says what nobody understands ({type(error).__name__}: {error})"
                break
        with self._changed:
            if other not in self._left:
                self._lose(f"{self.members[other]} was lost: {why}", EXIT_LOST)

    def _take(self, other: int, message: dict) -> None:
        if "give" in message:
            self._given.setdefault(message["give"], {})[other] = message["value"]
        elif "gathered" in message:
            self._gathered[message["gathered"]] = message["values"]
        elif "ask" in message:
            self._propose(message["ask"], message["reason"], message["tick"])
        elif "where" in message:
            self._frozen = True
            self._lines[0].send(at=self._ticks)
        elif "at" in message:
            self._at[other] = message["at"]
            self._end_agreement()
        elif "due" in message:
            self._agree(message["due"], message["tick"], message["reason"])
        elif "lost" in message:
            self._lose(message["lost"], message["code"])
        elif "bye" in message:
            self._left.add(other)
            if message["bye"]:
                self._lose(f"{self.members[other]} ended: {message['line']}", message["bye"])
        self._changed.notify_all()

    def _beat(self) -> None:
        while len(self._left) < len(self._lines):
            before = time.monotonic()
            time.sleep(_BEAT_EVERY_S)
            with self._changed:
                self._tell(beat=True)
                if time.monotonic() - before > LOST_AFTER_S / 2:  # it was this one that stood still
                    for line in self._lines.values():
                        line.heard = time.monotonic()
                for other, line in self._lines.items():
                    if other not in self._left and time.monotonic() - line.heard > LOST_AFTER_S:
                        self._lose(f"{self.members[other]} was lost: not heard of for {LOST_AFTER_S:.0f} s", EXIT_LOST)

    def _lose(self, line: str, code: int) -> None:
        """Tell everyone and exit. The main thread cannot: it may be waiting for the lost one in a collective."""
        if self._ending:
            return
        if self.first:
            self._tell(lost=line, code=code)
            for told in self._lines.values():
                told.finish()
        hint = "" if code != EXIT_LOST else "; start all processes again: they go on from the last checkpoint"
        try:
            os.write(2, f"error: {line}{hint}\n".encode())
        finally:  # whoever reads that may be gone as well
            time.sleep(_READ_WITHIN_S if self.first else 0.0)
            os._exit(code)

    def stop_watching(self) -> None:
        """From now on the loss of others does not end this process."""
        with self._changed:
            self._ending = True

    def leave(self, code: int = 0, line: str = "") -> None:
        """Say goodbye. With a code other than 0 the others end as well, with that code and `line`."""
        with self._changed:
            self._tell(bye=code, line=line)
            self._left.update(self._lines)
        for connection in self._lines.values():
            connection.finish()
        deadline = time.monotonic() + _CLOSED_WITHIN_S
        for listener in self._listeners:  # until the other side has closed too
            listener.join(max(deadline - time.monotonic(), 0.0))
