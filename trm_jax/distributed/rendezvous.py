"""From one process to a group: who the others are, and JAX over all of them.

The processes of a Cloud TPU, of GKE and of SLURM are found by JAX's own detection; plain hosts are told.
"""

from __future__ import annotations

import ctypes
import os
import re
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import NamedTuple

import jax
from jax._src import distributed
from jax._src.clusters import ClusterEnv, GceTpuCluster  # public only through initialize(), which dies wordlessly
from jax._src.lib import _jax
from jax.errors import JaxRuntimeError
from jax.experimental import multihost_utils

from trm_jax.distributed.checks import program_facts, require_same
from trm_jax.distributed.process_group import ProcessGroup
from trm_jax.errors import InputError, OutOfReach

LOST_AFTER_S = 30  # without a heartbeat
EXIT_BAD_INPUT, EXIT_LOST = 2, 69  # of the command line; 69: another process is gone, the same command goes on
_AGAIN = "start all again: they go on from the last checkpoint"
_LOST = f"JAX has ended this process: its lines above say why; {_AGAIN}"
_TELL = "tell it: --coordinator HOST:PORT --processes N --process I (or TRM_COORDINATOR, TRM_PROCESSES, TRM_PROCESS)"


class Cluster(NamedTuple):
    """HOST:PORT of process 0, how many there are, which this is, and its accelerators of this host (None: all)."""

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


def expected() -> bool:
    """Whether this process is one of several, by what it was told, or SLURM, GKE or a Cloud TPU says of it."""
    if os.environ.get("TRM_ALONE"):  # set to anything: it is not, whatever the host belongs to
        return False
    told = "TRM_COORDINATOR" in os.environ or _whole("TRM_PROCESSES", 1) > 1
    slurm = _whole("SLURM_STEP_NUM_TASKS", 1) > 1 and "SLURM_PROCID" in os.environ
    if told or slurm or "," in os.environ.get("TPU_WORKER_HOSTNAMES", ""):
        return True
    try:
        of_cloud_tpu = GceTpuCluster.is_env_present()
    except (OSError, ImportError):  # chips without the metadata server of a Cloud TPU, or without what asks it
        return False
    return of_cloud_tpu and GceTpuCluster.get_process_count() > 1  # a failure here must not let each host train alone


def find(coordinator: str = "", processes: int = 0, process: int = -1, port: int = 0, timeout_s: int = 900) -> Cluster:
    """The cluster of this process: as told, by TRM_COORDINATOR, TRM_PROCESSES and TRM_PROCESS too; or as it is found.

    `processes` is compared with what is found. Raises InputError when something is missing or at odds.
    """
    coordinator = coordinator or os.environ.get("TRM_COORDINATOR", "")
    processes = processes or _whole("TRM_PROCESSES", 0)
    process = process if process >= 0 else _whole("TRM_PROCESS", -1)
    if coordinator and processes and process >= 0:
        if process >= processes:
            raise InputError(f"there is no process {process} among {processes}, which are numbered from 0")
        if ":" not in coordinator.rpartition("]")[2]:  # of IPv6 the brackets hold colons
            coordinator = f"{coordinator}:{port or 8476}"
        if port not in (0, endpoint(coordinator)[1]):
            raise InputError(f"--port {port} and the coordinator {coordinator} name two ports; give one of them")
        return Cluster(coordinator, processes, process)
    if coordinator or process >= 0:
        raise InputError(f"--coordinator, --processes and --process belong together; {_TELL}")
    if port:
        os.environ["JAX_COORDINATOR_PORT"] = str(port)  # where JAX's detection looks
    host = socket.gethostname()
    try:
        address, count, index, devices = ClusterEnv.auto_detect_unset_distributed_params(*[None] * 5, timeout_s)
    except Exception as error:  # noqa: BLE001 - each kind of cluster fails in its own way
        raise InputError(f"{host}: the cluster cannot be found out: {error}; {_TELL}") from error
    if None in (address, count, index):
        raise InputError(f"{host} belongs to no cluster that is known here (Cloud TPU, GKE, SLURM); {_TELL}")
    if processes and processes != count:
        wrong = f"{processes} processes were expected and {host} belongs to a cluster of {count}"
        raise InputError(f"{wrong}; correct --processes (TRM_PROCESSES), or look for hosts that are missing")
    if os.environ.get("SLURM_STEP_TASKS_PER_NODE", "").partition("(")[0] == "1":
        devices = None  # JAX would give the only task of a node one of its accelerators
    return Cluster(address, count, index, None if devices is None else tuple(devices))


def _whole(name: str, otherwise: int) -> int:
    text = os.environ.get(name, "")
    if text and not (text.isascii() and text.isdigit()):
        raise InputError(f"{name} is {text!r}; it must be a whole number")
    return int(text) if text else otherwise


@contextmanager
def join(cluster: Cluster, timeout_s: float, report: Callable[[BaseException], int]) -> Iterator[ProcessGroup]:
    """The group of the processes of `cluster`, with JAX over the devices of all, for as long as the context lasts.

    Enter it before anything asks JAX for devices. What is raised, inside or on the way there, ends this process with
    the exit code that `report` returns when it has printed the error, and the others with it. When others do not come
    within `timeout_s` seconds, or are lost later, an error line says so and the process exits with EXIT_LOST. While
    they wait for each other SIGINT and SIGTERM end them at once.
    """
    if cluster.processes == 1:
        yield ProcessGroup()
        return
    group = None
    with _on_abort(lambda _: (EXIT_LOST, _LOST)):
        try:
            preemption = _connect(cluster, int(timeout_s))
            group = ProcessGroup(cluster.process, cluster.processes, distributed.global_state.client, preemption)
            facts = {"the number of processes": cluster.processes, **program_facts()}
            require_same(group, facts, "install one commit and one set of requirements on all hosts")
            # The first collective connects the devices, and some transports wait 30 s for the last: before compiling.
            multihost_utils.sync_global_devices("trm")
            yield group
            group.gather("the end")  # nobody leaves before all have come to it
        except BaseException as error:  # noqa: BLE001 - reported, and the others are told
            _end(group, error, report)
        preemption.shutdown()
        jax.distributed.shutdown()


def _connect(cluster: Cluster, timeout_s: int):
    """Start JAX's coordination service at process 0 and connect to it, once all processes are there.

    What the service prints of those that do not come, before it aborts, is put in one line. Returns a manager of
    preemption sync points that is the group's own: Orbax asks that of JAX with numbers of another kind.
    """
    own, place = f"process {cluster.process}", f"{cluster.coordinator} within {timeout_s} s"
    if cluster.process == 0:
        _, port = endpoint(cluster.coordinator)
        try:
            socket.create_server(("", port)).close()  # JAX would share it with another process 0, or abort
        except OSError as error:
            problem = f"process 0 cannot listen at port {port} of {socket.gethostname()} ({error.strerror})"
            raise OutOfReach(f"{problem}; end what uses it, or choose another port (--port)") from None

    def explain(printed: str) -> tuple[int, str]:
        if missing := re.search(r"timed out task names:\s+((?:\S*\d\n)+)", printed):
            numbers = ", ".join(sorted(re.findall(r"(\d+)\n", missing[1]), key=int))
            said = f"of {cluster.processes} processes, {numbers} did not come to {place}"
            return EXIT_LOST, f"{said}; look at their logs, and let their hosts reach that port"
        if "newer incarnation" in printed:
            return EXIT_BAD_INPUT, f"another process has the number {cluster.process} too; give each one its own"
        why = re.findall(r"absl::Status: (.*)", printed) or ["no answer"]
        said = f"{own} could not join process 0 at {place} ({why[-1]})"
        return EXIT_LOST, f"{said}; look at the log of process 0, and let this host reach that port"

    jax.config.update("jax_enable_preemption_service", False)
    make_service = _jax.get_distributed_runtime_service
    with ExitStack() as restoring:
        for number in (signal.SIGINT, signal.SIGTERM):  # waiting in C++, no handler of Python's would be called
            restoring.callback(signal.signal, number, signal.signal(number, signal.SIG_DFL))
        os.write(2, f"{own} of {cluster.processes}: waiting for all to come to {place}\n".encode())
        # JAX leaves this time-out, after which the service names who is missing, at an hour.
        _jax.get_distributed_runtime_service = partial(make_service, cluster_register_timeout=timeout_s)
        restoring.callback(setattr, _jax, "get_distributed_runtime_service", make_service)
        with _on_abort(explain, hold_stderr=True):
            jax.distributed.initialize(
                *cluster,
                cluster_detection_method="deactivate",
                initialization_timeout=timeout_s + 10,  # the service gives up first, and says why
                heartbeat_timeout_seconds=LOST_AFTER_S,
            )
        preemption = _jax.create_preemption_sync_manager()
        preemption.initialize(distributed.global_state.client)  # takes SIGTERM, which the group agrees on
        return preemption


@contextmanager
def _on_abort(tell: Callable[[str], tuple[int, str]], hold_stderr: bool = False) -> Iterator[None]:
    """Context in which abort() ends this process with the exit code and the error line, if any, of `tell(printed)`.

    JAX ends a process that has lost another by abort(), in a thread of C++, where Python raises nothing. hold_stderr:
    standard error is kept meanwhile, given to `tell` as `printed`, and shown when the context ends without an abort.
    """
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as held:

        @ctypes.CFUNCTYPE(None, ctypes.c_int)
        def handler(_):
            code = 70
            try:
                code, line = tell(os.pread(held.fileno(), 1 << 20, 0).decode(errors="replace"))
                os.write(stderr, f"error: {line}\n".encode() if line else b"")
            finally:
                os._exit(code)

        c_signal = ctypes.CDLL(None).signal
        c_signal.argtypes, c_signal.restype = (ctypes.c_int, ctypes.c_void_p), ctypes.c_void_p
        before = c_signal(signal.SIGABRT, ctypes.cast(handler, ctypes.c_void_p))
        if hold_stderr:
            os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            os.write(2, os.pread(held.fileno(), 1 << 20, 0))
            c_signal(signal.SIGABRT, before)


def _end(group: ProcessGroup | None, error: BaseException, report: Callable[[BaseException], int]) -> None:
    """End this process because of `error`, and the others because of this process."""
    ended = None
    if group and not isinstance(error, InputError | OutOfReach | KeyboardInterrupt):
        ended = group.ended(3.0)  # the end of another may be the cause
        if not ended and isinstance(error, JaxRuntimeError | ValueError):  # of a collective: its loss may be
            lost = group.lost(LOST_AFTER_S + 10.0)
            ended = (EXIT_LOST, f"{lost} is lost; {_AGAIN}") if lost else None
    if ended:
        os.write(2, f"error: {ended[1]}\n".encode())
    else:
        said = (str(error).strip() or type(error).__name__).splitlines()[0][:500]
        ended = report(error), f"{group.name()} ended: {said}" if group else said
    with _on_abort(lambda _: (ended[0], "")):  # process 0, once it was told, may be gone a moment before this one
        try:
            sys.stdout.flush()
            if group:
                group.leave(ended[0] or 1, ended[1])
        finally:
            os._exit(ended[0])  # JAX's own end would wait for the others
