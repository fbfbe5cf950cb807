"""What each of several processes side by side may use: accelerators of its own, or a share of the cores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from trm_jax.errors import InputError

# libtpu wants the chips of a process as a box; other counts make none.
TPU_BOXES = {1: "1,1,1", 2: "1,2,1", 4: "2,2,1", 8: "2,4,1"}
TPU_FIRST_PORT = 8476
MEMORY_SHARE = 0.9  # of a GPU, for all the processes on it together


@dataclass(frozen=True)
class Slot:
    """A place for one process: environment variables to add, and the cores it may run on (empty: any)."""

    environ: Mapping[str, str] = field(default_factory=dict)
    cores: tuple[int, ...] = ()


def slots(
    jobs: int, *, platform: str = "cpu", devices: int = 0, cores: Sequence[int] = (), environ: Mapping[str, str]
) -> list[Slot]:
    """Places for `jobs` processes on this machine.

    platform: "cpu", "gpu" or "tpu"; devices: GPUs that JAX sees or TPU chips; cores: ids of the cores that this
    process may use (empty: unknown); environ: its environment variables. One job gets everything.
    Raises InputError for more jobs than TPU chips.
    """
    if jobs == 1:
        return [Slot()]
    if platform == "gpu":
        return _on_gpus(jobs, devices, environ)
    if platform == "tpu":
        return _on_chips(jobs, devices)
    return [Slot(cores=tuple(part)) for part in _shares(cores, jobs)]


def _shares(things: Sequence, jobs: int) -> list[Sequence]:
    """Each job's things: as many for each as there are, or one that others use too."""
    if not things or jobs >= len(things):
        return [things[job % len(things) :][:1] if things else things for job in range(jobs)]
    each = len(things) / jobs
    return [things[int(job * each) : int((job + 1) * each)] for job in range(jobs)]


def _on_gpus(jobs: int, devices: int, environ: Mapping[str, str]) -> list[Slot]:
    named = environ.get("CUDA_VISIBLE_DEVICES")
    names = named.split(",") if named else [str(number) for number in range(devices)]
    each = max(1, len(names) // jobs)  # the same number for all: a batch must divide by it
    on_one = -(-jobs // len(names))
    shared = {}
    if on_one > 1 and "XLA_PYTHON_CLIENT_MEM_FRACTION" not in environ:
        # Otherwise the first process takes most of the memory and the second one none.
        shared["XLA_PYTHON_CLIENT_MEM_FRACTION"] = f"{MEMORY_SHARE / on_one:.3f}"
    return [Slot({"CUDA_VISIBLE_DEVICES": ",".join(part[:each]), **shared}) for part in _shares(names, jobs)]


def _on_chips(jobs: int, chips: int) -> list[Slot]:
    if jobs > chips:
        raise InputError(f"--jobs {jobs}: a TPU chip serves one process and there are {chips}; give --jobs {chips}")
    each = max(count for count in TPU_BOXES if count <= chips // jobs)
    box = {"TPU_CHIPS_PER_PROCESS_BOUNDS": TPU_BOXES[each], "TPU_PROCESS_BOUNDS": "1,1,1"}
    found = []
    for job in range(jobs):
        port, ours = TPU_FIRST_PORT + job, range(job * each, (job + 1) * each)
        address = {"TPU_MESH_CONTROLLER_ADDRESS": f"localhost:{port}", "TPU_MESH_CONTROLLER_PORT": str(port)}
        own = {"TPU_VISIBLE_CHIPS": ",".join(map(str, ours)), "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
        found.append(Slot(box | address | own))
    return found
