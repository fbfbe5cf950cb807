"""From one process to a group: who the others are, and JAX over all of them.

The processes of a Cloud TPU, of GKE and of SLURM are found by JAX's own detection; plain hosts are told.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import jax
from jax._src import distributed
from jax._src.clusters import ClusterEnv, GceTpuCluster  # public only through initialize(), which dies wordlessly
from jax._src.lib import _jax
from jax.errors import JaxRuntimeError
from jax.experimental import multihost_utils

from trm_jax.distributed.abort import on_abort
from trm_jax.distributed.checks import program_facts, require_same
from trm_jax.distributed.process_group import ProcessGroup
from trm_jax.errors import InputError, OutOfReach

DEFAULT_PORT = 8476
ALONE = "TRM_ALONE"  # set to anything: this process is not one of several, whatever the host belongs to
STARTUP_TIMEOUT_S = 900.0
LOST_AFTER_S = 30  # without a heartbeat
EXIT_BAD_INPUT, EXIT_LOST = 2, 69  # of the command line; 69: another process is gone, the same command goes on
_GRACE_S = 3.0  # in which one that fails says so to the others
_LOST = (
    "JAX has ended this process, as it does when another one is lost: its lines above say which ('task' or 'tasks'); "
    "start all processes again: they go on from the last checkpoint"
)
_TELL = "tell it: --coordinator HOST:PORT --processes N --process I (or TRM_COORDINATOR, TRM_PROCESSES, TRM_PROCESS)"


@dataclass(frozen=True)
class Cluster:
    """How the processes find each other: HOST:PORT of process 0, their number and which of them this one is.

    local_devices: the numbers of the accelerators of this host that are this process's; None for all of them.
    """

    coordinator: str
    processes: int
    process: int
    local_devices: tuple[int, ...] | None = None


def endpoint(text: str) -> tuple[str, int]:
    """(host, port) of HOST:PORT; an address of IPv6 stands in brackets there. Raises InputError."""
    match = re.fullmatch(r"(\[[^\[\]\s]+\]|[^:\[\]\s]+):([0-9]{1,5})", text)
    if not match or not 0 < int(match[2]) < 65536:
        raise InputError(f"the coordinator is {text!r}; write HOST:PORT, for example 10.0.0.1:8476 or [::1]:8476")
    return match[1].strip("[]"), int(match[2])


def expected(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether this process is one of several, by what it was told, or SLURM, GKE or a Cloud TPU says of it."""
    if environ.get(ALONE):
        return False
    if "TRM_COORDINATOR" in environ or _whole(environ, "TRM_PROCESSES", 1) > 1:
        return True
    if _whole(environ, "SLURM_STEP_NUM_TASKS", 1) > 1 and "SLURM_PROCID" in environ:
        return True
    if "," in environ.get("TPU_WORKER_HOSTNAMES", ""):
        return True
    try:
        return GceTpuCluster.is_env_present() and GceTpuCluster.get_process_count() > 1
    except Exception:  # noqa: BLE001 - chips without the metadata server of a Cloud TPU
        return False


def find(
    coordinator: str = "",
    processes: int = 0,
    process: int = -1,
    port: int = 0,
    timeout_s: float = STARTUP_TIMEOUT_S,
    environ: Mapping[str, str] = os.environ,
) -> Cluster:
    """The cluster of this process: as told, by TRM_COORDINATOR, TRM_PROCESSES and TRM_PROCESS too; or as it is found.

    `processes` is compared with what is found. Raises InputError when something is missing or at odds.
    """
    coordinator = coordinator or environ.get("TRM_COORDINATOR", "")
    processes = processes or _whole(environ, "TRM_PROCESSES", 0)
    process = process if process >= 0 else _whole(environ, "TRM_PROCESS", -1)
    if coordinator and processes and process >= 0:
        if process >= processes:
            raise InputError(f"there is no process {process} among {processes}, which are numbered from 0")
        if ":" not in coordinator.rpartition("]")[2]:  # of IPv6 the brackets hold colons
            coordinator = f"{coordinator}:{port or DEFAULT_PORT}"
        _, named = endpoint(coordinator)
        if port and port != named:
            raise InputError(f"--port {port} and the coordinator {coordinator} name two ports; give one of them")
        return Cluster(coordinator, processes, process)
    if coordinator or process >= 0:
        raise InputError(f"--coordinator, --processes and --process belong together; {_TELL}")
    if port:
        os.environ["JAX_COORDINATOR_PORT"] = str(port)  # where JAX's detection looks
    host = socket.gethostname()
    try:
        nothing_given = 5 * [None]
        found = ClusterEnv.auto_detect_unset_distributed_params(*nothing_given, initialization_timeout=int(timeout_s))
    except Exception as error:  # noqa: BLE001 - each kind of cluster fails in its own way
        raise InputError(f"{host}: the cluster cannot be found out: {error}; {_TELL}") from error
    address, count, index, devices = found
    if None in (address, count, index):
        raise InputError(f"{host} belongs to no cluster that is known here (Cloud TPU, GKE, SLURM); {_TELL}")
    if processes and processes != count:
        raise InputError(
            f"{processes} processes were expected and {host} belongs to a cluster of {count}; "
            "correct --processes (TRM_PROCESSES), or look for hosts that are missing"
        )
    if environ.get("SLURM_STEP_TASKS_PER_NODE", "").partition("(")[0] == "1":
        devices = None  # JAX would give the only task of a node one of its accelerators
    return Cluster(address, count, index, None if devices is None else tuple(devices))


def _whole(environ: Mapping[str, str], name: str, otherwise: int) -> int:
    text = environ.get(name, "")
    if text and not (text.isascii() and text.isdigit()):
        raise InputError(f"{name} is {text!r}; it must be a whole number")
    return int(text) if text else otherwise


@contextmanager
def join(cluster: Cluster, timeout_s: float, report: Callable[[BaseException], int]) -> Iterator[ProcessGroup]:
    """The group of the processes of `cluster`, with JAX over the devices of all, for as long as the context lasts.

    Enter it before anything asks JAX for devices. What is raised, inside or on the way there, ends this process with
    the exit code that `report` returns when it has printed the error, and the others with it: they would wait for it in
    a collective for ever. When others do not come within `timeout_s` seconds, or are lost later, an error line says so
    and the process exits with EXIT_LOST. While they wait for each other SIGINT and SIGTERM end them at once.
    """
    if cluster.processes == 1:
        yield ProcessGroup()
        return
    group = None
    with on_abort(lambda _: (EXIT_LOST, _LOST)):
        try:
            if cluster.process == 0:
                _require_free_port(cluster)
            with _signals_by_default():  # waiting in C++, no handler of Python's would be called
                _connect(cluster, int(timeout_s))
                preemption = _jax.create_preemption_sync_manager()
                preemption.initialize(distributed.global_state.client)  # takes SIGTERM, which the group agrees on
            group = ProcessGroup(cluster.process, cluster.processes, distributed.global_state.client, preemption)
            facts = {"the number of processes": cluster.processes, **program_facts()}
            require_same(group, facts, "install one commit and one set of requirements on all hosts")
            # The first collective connects the devices, and some transports wait no more than 30 s for the last of
            # them: now, while all are at one place, and not when one has compiled its step long before another.
            multihost_utils.sync_global_devices("trm")
            yield group
            group.gather("the end")  # nobody leaves before all have come to it
        except BaseException as error:  # noqa: BLE001 - reported, and the others are told
            _end(group, error, report)
        preemption.shutdown()
        jax.distributed.shutdown()


def _require_free_port(cluster: Cluster) -> None:
    """JAX would share the port with another process 0, or abort."""
    _, port = endpoint(cluster.coordinator)
    try:
        socket.create_server(("", port)).close()
    except OSError as error:
        raise OutOfReach(
            f"process 0 cannot listen at port {port} of {socket.gethostname()} ({error.strerror}); end what uses it, "
            "or choose another port (--port)"
        ) from None


@contextmanager
def _signals_by_default() -> Iterator[None]:
    handlers = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _connect(cluster: Cluster, timeout_s: int) -> None:
    """Start JAX's coordination service at process 0 and connect to it, once all processes are there.

    What the service prints of those that do not come, before it aborts, is put in one line.
    """
    own, place = f"process {cluster.process}", f"{cluster.coordinator} within {timeout_s} s"
    os.write(2, f"{own} of {cluster.processes}: waiting for all to come to {place}\n".encode())

    def explain(printed: str) -> tuple[int, str]:
        if missing := re.search(r"timed out task names:\s+((?:\S*\d\n)+)", printed):
            numbers = ", ".join(sorted(re.findall(r"(\d+)\n", missing[1]), key=int))
            said = f"of {cluster.processes} processes, {numbers} did not come to {place}"
            return EXIT_LOST, f"{said}; look at their logs, and let their hosts reach it"
        if "newer incarnation" in printed:
            return EXIT_BAD_INPUT, f"another process has the number {cluster.process} too; give each one its own"
        why = re.findall(r"absl::Status: (.*)", printed) or ["no answer"]
        said = f"{own} could not join process 0 at {place} ({why[-1]})"
        return EXIT_LOST, f"{said}; look at the log of process 0, and let this host reach that port"

    # Its own manager of sync points is asked by Orbax with numbers of another kind.
    jax.config.update("jax_enable_preemption_service", False)
    make_service = _jax.get_distributed_runtime_service
    # JAX leaves this time-out, after which the service names who is missing, at an hour.
    _jax.get_distributed_runtime_service = partial(make_service, cluster_register_timeout=timeout_s)
    try:
        with on_abort(explain, hold_stderr=True):
            jax.distributed.initialize(
                cluster.coordinator,
                cluster.processes,
                cluster.process,
                local_device_ids=cluster.local_devices,
                cluster_detection_method="deactivate",
                initialization_timeout=timeout_s + 10,  # the service gives up first, and says why
                heartbeat_timeout_seconds=LOST_AFTER_S,
            )
    finally:
        _jax.get_distributed_runtime_service = make_service


def _end(group: ProcessGroup | None, error: BaseException, report: Callable[[BaseException], int]) -> None:
    """End this process because of `error`, and the others because of this process."""
    ended = None
    if group and not isinstance(error, InputError | OutOfReach | KeyboardInterrupt):
        ended = group.ended(_GRACE_S)  # the end of another may be the cause
        if not ended and isinstance(error, JaxRuntimeError | ValueError):  # of a collective: its loss may be
            group.wait_for_all("failed", LOST_AFTER_S + 10.0)  # JAX ends this process meanwhile if one is lost
    if ended:
        code, line = ended
        os.write(2, f"error: {line}\n".encode())
    else:
        code = report(error)
        line = (str(error).strip() or type(error).__name__).splitlines()[0][:500]
        line = f"{group.name()} ended: {line}" if group else line
    try:
        if group:
            group.leave(code or 1, line)
        sys.stdout.flush()
    finally:
        os._exit(code)  # JAX's own end would wait for the others
