"""Whether process 0 of several hosts can be reached, or can listen where it is told to."""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Iterator

from trm_jax.cli.health.check import Check, Subject

PATIENCE_S = 5.0


def coordinator(subject: Subject) -> Iterator[Check]:
    """Where JAX's coordination service of process 0 listens, HOST:PORT."""
    if subject.coordinator is None:
        return
    from trm_jax.distributed.rendezvous import endpoint  # imports JAX, which may be what is broken

    host, port = endpoint(subject.coordinator)
    try:
        socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        remedy = f"getent hosts {host}   # or give the address of process 0's host in place of its name"
        yield Check("coordinator", "fail", f"no address is known here for {host}: {error.strerror}", remedy)
        return
    yield _port(host, port, subject.coordinator)


def _port(host: str, port: int, told: str) -> Check:
    place, name = f"{host}:{port}", f"coordinator port {port}"
    began = time.monotonic()
    try:
        socket.create_connection((host, port), timeout=PATIENCE_S).close()
    except ConnectionRefusedError:
        return _nobody_listens(host, port, told)
    except OSError as error:
        slow = isinstance(error, TimeoutError)
        reason = f"does not answer within {PATIENCE_S:g} s" if slow else f"cannot be reached: {error.strerror}"
        remedy = f"nc -vz -w 5 {host} {port}   # open the port in the firewall between the hosts"
        return Check(name, "fail", f"{place} {reason}", remedy)
    return Check(name, "ok", f"{place} answers after {1000 * (time.monotonic() - began):.0f} ms")


def _nobody_listens(host: str, port: int, told: str) -> Check:
    """The host is reached. On its own machine it shows whether process 0 could listen there."""
    name, family = f"coordinator port {port}", socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        if error.errno != errno.EADDRNOTAVAIL:
            remedy = "choose another port, the same on all hosts: trm train NAME --coordinator HOST:PORT"
            return Check(name, "fail", f"process 0 cannot listen at {host}:{port}: {error.strerror}", remedy)
        remedy = f"trm train NAME --coordinator {told} --processes N --process 0   # on {host}"
        return Check(name, "warn", f"{host} is reached and nobody listens at {port} yet", remedy)
    return Check(name, "ok", f"{host} is this machine, and {port} is free for process 0")
