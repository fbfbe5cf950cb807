"""What each of several processes side by side may use: accelerators of its own, or a share of the cores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from trm_jax.errors import InputError

CORES = "TRM_CORES"  # ids of the cores that a process may run on: 0,1,...
# libtpu wants the chips of a process as a box; other counts make none.
TPU_BOXES = {1: "1,1,1", 2: "1,2,1", 4: "2,2,1", 8: "2,4,1"}
TPU_FIRST_PORT = 8476
MEMORY_SHARE = 0.9  # of a GPU, for all the processes on it together


def slots(
    jobs: int, *, platform: str = "cpu", devices: int = 0, cores: Sequence[int] = (), environ: Mapping[str, str]
) -> list[dict[str, str]]:
    """Places for `jobs` processes on this machine: environment variables for each.

    platform: "cpu", "gpu" or "tpu"; devices: GPUs that JAX sees or TPU chips; cores: ids of the cores that this
    process may use (empty: unknown); environ: its environment variables. One job gets everything.
    Raises InputError for more jobs than TPU chips.
    """
    if jobs == 1:
        return [{}]
    if platform == "gpu":
        return _on_gpus(jobs, devices, environ)
    if platform == "tpu":
        return _on_chips(jobs, devices)
    return [{CORES: ",".join(map(str, part))} for part in _shares(cores, jobs)] if cores else [{}] * jobs


def _shares(things: Sequence, jobs: int) -> list[Sequence]:
    """Each job's things: as many for each as there are, or one that others use too."""
    if jobs >= len(things):
        return [[things[job % len(things)]] for job in range(jobs)]
    each = len(things) / jobs
    return [things[int(job * each) : int((job + 1) * each)] for job in range(jobs)]


def _on_gpus(jobs: int, devices: int, environ: Mapping[str, str]) -> list[dict[str, str]]:
    named = environ.get("CUDA_VISIBLE_DEVICES")
    names = named.split(",") if named else [str(number) for number in range(devices)]
    each = max(1, len(names) // jobs)  # the same number for all: a batch must divide by it
    on_one = -(-jobs // len(names))
    shared = {}
    if on_one > 1 and "XLA_PYTHON_CLIENT_MEM_FRACTION" not in environ:
        # Otherwise the first process takes most of the memory and the second one none.
        shared["XLA_PYTHON_CLIENT_MEM_FRACTION"] = f"{MEMORY_SHARE / on_one:.3f}"
    return [{"CUDA_VISIBLE_DEVICES": ",".join(part[:each]), **shared} for part in _shares(names, jobs)]


def _on_chips(jobs: int, chips: int) -> list[dict[str, str]]:
    if jobs > chips:
        raise InputError(f"--jobs {jobs}: a TPU chip serves one process and there are {chips}; give --jobs {chips}")
    each = max(count for count in TPU_BOXES if count <= chips // jobs)
    return [
        {
            "TPU_CHIPS_PER_PROCESS_BOUNDS": TPU_BOXES[each],
            "TPU_PROCESS_BOUNDS": "1,1,1",
            "TPU_VISIBLE_CHIPS": ",".join(map(str, range(job * each, (job + 1) * each))),
            "TPU_MESH_CONTROLLER_ADDRESS": f"localhost:{TPU_FIRST_PORT + job}",
            "TPU_MESH_CONTROLLER_PORT": str(TPU_FIRST_PORT + job),
            "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        }
        for job in range(jobs)
    ]
