"""How the processes of one run meet.

JAX's own coordination service does not say which process is missing and ends a process without a word that a person
could use; so the processes meet here first, and JAX is started once all are known to be there.
"""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Callable

from trm_jax.distributed.team import Line, Member, Team
from trm_jax.errors import InputError, OutOfReach


class OthersMissing(OutOfReach):
    """The other processes are not there; they may be the next time."""


def endpoint(text: str) -> tuple[str, int]:
    """(host, port) of HOST:PORT; an address of IPv6 stands in brackets there. Raises InputError."""
    match = re.fullmatch(r"(\[[^\[\]\s]+\]|[^:\[\]\s]+):([0-9]{1,5})", text)
    if not match or not 0 < int(match[2]) < 65536:
        raise InputError(f"the coordinator is {text!r}; write HOST:PORT, for example 10.0.0.1:8476 or [::1]:8476")
    return match[1].strip("[]"), int(match[2])


def meeting_port(port: int) -> int:
    """Where the processes meet: JAX's own service takes the coordinator's port itself."""
    return port + 1 if port < 65535 else port - 1


def _address(coordinator: str) -> tuple[str, int]:
    host, port = endpoint(coordinator)
    return host, meeting_port(port)


def listen(port: int) -> socket.socket:
    """A server at `port` of all addresses of this host. Raises OSError."""
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", port))


def meet(
    coordinator: str, index: int, count: int, timeout_s: float, stopped: Callable[[], bool] = lambda: False
) -> Team:
    """The team of the `count` processes that call this, each with its own `index`.

    coordinator: HOST:PORT of process 0; PORT is left to JAX, the processes meet at PORT + 1. Raises OthersMissing,
    naming them, when they are not complete after `timeout_s` seconds or `stopped()` has become true, and InputError
    for processes that cannot be a team.
    """
    host, port = _address(coordinator)
    own = Member(index, socket.gethostname(), os.getpid())
    if count == 1:
        return Team(members=[own])
    deadline = time.monotonic() + timeout_s

    def left_s() -> float:
        if stopped():
            raise OthersMissing(f"{own} was stopped before all {count} processes had come")
        return deadline - time.monotonic()

    return _receive_all(own, count, port, left_s, timeout_s) if index == 0 else _join(own, host, port, left_s, count)


def _receive_all(own: Member, count: int, port: int, left_s: Callable[[], float], timeout_s: float) -> Team:
    try:
        server = listen(port)
    except OSError as error:
        raise OthersMissing(
            f"process 0 cannot listen at port {port} of {own.host} ({error.strerror}); end what uses it, or choose "
            "another port (--port)"
        ) from None
    members, lines = {0: own}, {}

    def refuse(why: str, *others: Line, kind=InputError):
        for line in (*lines.values(), *others):
            line.send(refused=why, absent=kind is OthersMissing)
            line.close()
        raise kind(why)

    def forget_the_dead() -> None:
        """They may be started again and come a second time."""
        for index in [index for index, line in lines.items() if not line.open()]:
            lines.pop(index).close()
            del members[index]

    def complete() -> bool:
        forget_the_dead()
        return len(members) == count

    with server:
        while not complete():
            server.settimeout(min(max(left_s(), 0.001), 1.0))
            try:
                connection, _ = server.accept()
            except TimeoutError:
                if left_s() > 0:
                    continue
                missing = ", ".join(str(p) for p in range(count) if p not in members)
                refuse(
                    f"of {count} processes, {missing} did not come to {own.host}:{port} within {timeout_s:.0f} s; look "
                    "at their logs, and let their hosts reach this port and the one before it",
                    kind=OthersMissing,
                )
            connection.settimeout(10.0)
            line = Line(connection)
            hello = line.receive()
            try:
                other = Member(int(hello["index"]), str(hello["host"]), int(hello["pid"]))
                asked = int(hello["count"])
            except (TypeError, KeyError, ValueError):  # a port scan, or another program's mistake
                line.close()
                continue
            connection.settimeout(None)
            if asked != count:
                refuse(f"{other} expects {asked} processes and process 0 {count}; start all with one number", line)
            if not 0 < other.index < count:
                refuse(f"there is no place for {other} among {count} processes, which are numbered from 0", line)
            forget_the_dead()
            if other.index in members:
                refuse(f"{other} and {members[other.index]} have one number; give each process its own", line)
            members[other.index], lines[other.index] = other, line
    roster = [members[p] for p in range(count)]
    for line in lines.values():
        line.send(members=[[m.index, m.host, m.pid] for m in roster])
    return Team(0, count, lines, roster)


def _join(own: Member, host: str, port: int, left_s: Callable[[], float], count: int) -> Team:
    began, silent = time.monotonic(), True
    while True:
        try:
            connection = socket.create_connection((host, port), timeout=5.0)
            break
        except OSError as error:
            why = error.strerror or error
            if left_s() <= 0:
                raise OthersMissing(
                    f"{own} could not reach process 0 at {host}:{port} within {time.monotonic() - began:.0f} s "
                    f"({why}); look at the log of process 0, and let this host reach that port"
                ) from None
            if silent and time.monotonic() - began > 10:
                silent = False
                os.write(2, f"waiting for process 0 at {host}:{port} ({why})\n".encode())
            time.sleep(min(1.0, max(left_s(), 0.01)))
    line = Line(connection)
    line.send(index=own.index, host=own.host, pid=own.pid, count=count)
    give_up = time.monotonic() + max(left_s(), 0.0) + 30.0  # process 0 gives up first, and says why
    while not line.readable(1.0) and time.monotonic() < give_up:
        left_s()
    connection.settimeout(10.0)
    answer = line.receive()
    if answer is None:
        raise OthersMissing(f"process 0 at {host}:{port} left before all had come; look at its log")
    if "members" not in answer:
        line.close()
        kind = OthersMissing if answer.get("absent") else InputError
        raise kind(answer.get("refused", f"{host}:{port} is held by another program; choose another port (--port)"))
    connection.settimeout(None)
    return Team(own.index, count, {0: line}, [Member(*m) for m in answer["members"]])
