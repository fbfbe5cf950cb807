"""From one process to a team: who the others are, whether they run the same program, and JAX over all of them.

The processes of a Cloud TPU, of GKE and of SLURM are found by JAX's own detection; plain hosts are told.
"""

from __future__ import annotations

import hashlib
import http.client
import importlib.metadata
import os
import platform
import secrets
import socket
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import jax
from jax.experimental import multihost_utils

import trm_jax
from trm_jax.distributed.meeting import OthersMissing, endpoint, listen, meet
from trm_jax.distributed.team import Team
from trm_jax.errors import InputError
from trm_jax.storage.paths import AnyPath

DEFAULT_PORT = 8476
ALONE = "TRM_ALONE"  # set to anything: this process is not one of several, whatever the host belongs to
STARTUP_TIMEOUT_S = 900.0
# What must be the same on every host. The others show where a difference comes from.
PACKAGES = ("jax", "jaxlib", "libtpu", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
_SETTINGS = ("XLA_FLAGS", "JAX_PLATFORMS", "JAX_ENABLE_X64", "JAX_DEFAULT_MATMUL_PRECISION")
_ENDPOINTS = "http://metadata.google.internal/computeMetadata/v1/instance/attributes/worker-network-endpoints"


@dataclass(frozen=True)
class Cluster:
    """How the processes find each other: HOST:PORT of process 0, their number and which of them this one is.

    local_devices: the numbers of the accelerators of this host that are this process's; None for all of them.
    """

    coordinator: str
    processes: int
    process: int
    local_devices: tuple[int, ...] | None = None


def expected(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether this process is one of several, by what it was told, or SLURM, GKE or a Cloud TPU says of it."""
    if environ.get(ALONE):
        return False
    if "TRM_COORDINATOR" in environ or _whole(environ, "TRM_PROCESSES", 1) > 1:
        return True
    if int(environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1 and "SLURM_PROCID" in environ:
        return True
    if "," in environ.get("TPU_WORKER_HOSTNAMES", ""):
        return True
    chips = any(Path(device).exists() for device in ("/dev/accel0", "/dev/vfio/0"))
    return chips and "TPU_SKIP_MDS_QUERY" not in environ and "," in _tpu_endpoints()


@cache
def _tpu_endpoints() -> str:
    """The workers of the Cloud TPU that this host belongs to, separated by commas; empty when it belongs to none."""
    request = urllib.request.Request(_ENDPOINTS, headers={"Metadata-Flavor": "Google"})
    try:
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with direct.open(request, timeout=2.0) as answer:
            return answer.read().decode()
    except (OSError, http.client.HTTPException):
        return ""  # no Google Cloud, or no TPU


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
    from jax._src.clusters import ClusterEnv  # public only through jax.distributed.initialize, which dies wordlessly

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
    try:
        found = ClusterEnv.auto_detect_unset_distributed_params(
            coordinator_address=None,
            num_processes=None,
            process_id=None,
            local_device_ids=None,
            cluster_detection_method=None,
            initialization_timeout=int(timeout_s),
        )
    except Exception as error:  # noqa: BLE001 - each kind of cluster fails in its own way
        raise InputError(f"{socket.gethostname()}: the cluster cannot be found out: {error}; {_TELL}") from error
    address, count, index, devices = found
    if address is None or count is None or index is None:
        raise InputError(
            f"{socket.gethostname()} belongs to no cluster that is known here (Cloud TPU, GKE, SLURM); {_TELL}"
        )
    if processes and processes != count:
        raise InputError(
            f"{processes} processes were expected and {socket.gethostname()} belongs to a cluster of {count}; "
            "correct --processes (TRM_PROCESSES), or look for hosts that are missing"
        )
    if _one_task_a_node(environ):
        devices = None  # JAX would give it one accelerator of the node's
    return Cluster(address, count, index, None if devices is None else tuple(devices))


_TELL = "tell it: --coordinator HOST:PORT --processes N --process I (or TRM_COORDINATOR, TRM_PROCESSES, TRM_PROCESS)"


def _whole(environ: Mapping[str, str], name: str, otherwise: int) -> int:
    text = environ.get(name, "")
    if text and not (text.isascii() and text.isdigit()):
        raise InputError(f"{name} is {text!r}; it must be a whole number")
    return int(text) if text else otherwise


def _one_task_a_node(environ: Mapping[str, str]) -> bool:
    return environ.get("SLURM_STEP_TASKS_PER_NODE", "").partition("(")[0] == "1"


def source_digest() -> str:
    """Hash of the sources of this package, by which two checkouts differ that share a version."""
    content = hashlib.sha256()
    root = Path(trm_jax.__file__).parent
    for file in sorted(root.rglob("*.py")):
        content.update(str(file.relative_to(root)).encode() + b"\0" + file.read_bytes())
    return content.hexdigest()[:12]


def program_facts(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """What must be the same at every process: the code, the versions of what it stands on."""
    facts = {
        "commit": environ.get("TRM_COMMIT", ""),
        "sources": source_digest(),
        "python": ".".join(platform.python_version_tuple()[:2]),
        **{name: environ.get(name, "") for name in _SETTINGS},
    }
    for package in PACKAGES:
        try:
            facts[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            facts[package] = "none"
    return facts


def require_same(team: Team, facts: Mapping[str, object], remedy: str) -> None:
    """Raise InputError, at every process, unless all have the same `facts`; it names who has which."""
    everyone = team.gather(dict(facts))
    for name in facts:
        values = [str(of[name]) for of in everyone]
        if len(set(values)) > 1:
            common = max(values, key=values.count)
            other = next(p for p, value in enumerate(values) if value != common)
            raise InputError(
                f"the processes differ in {name}: {values[other] or 'none'} at {team.members[other]}, "
                f"{common or 'none'} at {team.members[values.index(common)]}; {remedy}"
            )


_LAG_S = 10.0  # a file that another host has made may be seen late


def require_one_folder(team: Team, workdir: AnyPath) -> None:
    """Raise InputError, at every process, unless `workdir` is the same folder for all of them."""
    if team.count == 1:
        return
    file, token = workdir / ".team", team.share(lambda: secrets.token_hex(8))
    if team.first:
        file.write_text(token)
    team.gather("written")

    def seen() -> bool:
        try:
            return file.read_text() == token
        except FileNotFoundError:
            return False

    deadline = time.monotonic() + _LAG_S
    while not (found := seen()) and time.monotonic() < deadline:
        time.sleep(0.2)
    everyone = team.gather(found)
    if team.first:
        file.unlink(missing_ok=True)  # in a bucket the answer to a first request may have been lost
    if not all(everyone):
        raise InputError(
            f"{workdir} of {team.members[everyone.index(False)]} is not that of process 0; give a folder on a file "
            "system that all hosts share, or gs://BUCKET/..."
        )


_GRACE_S = 3.0  # in which a lost process is noticed


@contextmanager
def together(
    cluster: Cluster,
    timeout_s: float,
    report: Callable[[BaseException], int],
    stopped: Callable[[], bool] = lambda: False,
) -> Iterator[Team]:
    """The team of `cluster`, with JAX over the devices of all, for as long as the context lasts.

    Enter it before anything asks JAX for devices. Raises OthersMissing for processes that do not come, also when
    `stopped()` becomes true meanwhile, and InputError for those that run another program. What is raised inside ends
    this process, with the exit code that `report` returns when it has printed the error, and the others with it: they
    would wait for it in a collective for ever.
    """
    team = meet(cluster.coordinator, cluster.process, cluster.processes, timeout_s, stopped)
    try:
        require_same(team, program_facts(), "install one commit and one set of requirements on all hosts")
        _require_free_port(team, cluster)
        jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM, which the team agrees on
        jax.distributed.initialize(
            cluster.coordinator,
            cluster.processes,
            cluster.process,
            local_device_ids=cluster.local_devices,
            cluster_detection_method="deactivate",
            initialization_timeout=int(timeout_s),
        )
        # The first collective connects the devices, and some transports wait no more than 30 s for the last of them:
        # now, while all are at one place, and not when one has compiled its step long before another.
        team.gather("connect")
        multihost_utils.sync_global_devices("trm")
        yield team
    except BaseException as error:
        if not isinstance(error, InputError | KeyboardInterrupt):
            time.sleep(_GRACE_S)  # the loss of another may be the cause; then the watch says so and exits
        team.stop_watching()
        code = report(error)
        team.leave(code or 1, (str(error).strip() or type(error).__name__).splitlines()[0][:500])
        try:
            sys.stdout.flush()
        finally:
            os._exit(code)  # JAX's own end would wait for the others
    team.gather("the end")  # nobody leaves before all have come to it
    jax.distributed.shutdown()
    team.leave()


def _require_free_port(team: Team, cluster: Cluster) -> None:
    """JAX ends the process without a word when its port is taken."""
    port = int(cluster.coordinator.rpartition(":")[2])

    def problem():
        try:
            listen(port).close()
        except OSError as error:
            return f"port {port} of {team.members[0].host} cannot be used ({error.strerror}); choose another: --port"
        return ""

    line = team.share(problem)
    if line:
        raise OthersMissing(line)
