"""The mesh and the one table that says which mesh axes an array's logical axes lie on."""

from __future__ import annotations

import math
from dataclasses import dataclass

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from trm_jax.errors import InputError
from trm_jax.models import target
from trm_jax.models.params import TABLE_ROWS, ParamSpec, is_spec, path_name

MESH_AXES = ("data", "fsdp", "tensor")
MeshAxes = str | tuple[str, ...] | None


@dataclass(frozen=True)
class Rules:
    """Logical axis -> mesh axes. Batch and puzzle table are split; weights are whole unless fsdp or tensor > 1."""

    batch: MeshAxes = ("data", "fsdp")
    puzzles: MeshAxes = ("data", "fsdp")
    embed: MeshAxes = "fsdp"
    mlp: MeshAxes = "tensor"
    heads: MeshAxes = "tensor"
    tokens: MeshAxes = None
    vocab: MeshAxes = None


def mesh_sizes(data: int, fsdp: int, tensor: int, num_devices: int) -> tuple[int, int, int]:
    """Sizes of the mesh over so many devices; one may be -1 for "what is left". Raises InputError when none fit."""
    asked = dict(zip(MESH_AXES, (data, fsdp, tensor), strict=True))
    sizes = [data, fsdp, tensor]
    if sizes.count(-1) > 1 or any(s == 0 or s < -1 for s in sizes):
        raise InputError(f"mesh {asked}: sizes are positive, at most one is -1")
    known = math.prod(s for s in sizes if s != -1)
    if -1 in sizes and num_devices % known == 0:
        sizes[sizes.index(-1)] = num_devices // known
    if math.prod(sizes) != num_devices:
        raise InputError(
            f"mesh {asked} does not fit {num_devices} devices; "
            f"set mesh.data, mesh.fsdp and mesh.tensor so that their product is {num_devices}"
        )
    return tuple(sizes)


def make_mesh(data: int = -1, fsdp: int = 1, tensor: int = 1, devices=None) -> Mesh:
    """Mesh (data, fsdp, tensor) over all devices; one size may be -1 for "what is left"."""
    devices = jax.devices() if devices is None else devices
    sizes = mesh_sizes(data, fsdp, tensor, len(devices))
    # Auto axes: XLA propagates shardings. make_mesh may permute devices, which is why no code here derives
    # the rows of a process from its index.
    return jax.make_mesh(sizes, MESH_AXES, axis_types=(AxisType.Auto,) * 3, devices=devices)


def traced_on(mesh: Mesh, rules: Rules):
    """A context or decorator: what is traced inside runs on `mesh`, its arrays cut by `rules`."""
    return target.placed_on(mesh, vars(rules))


def _axis_size(mesh: Mesh, axes: MeshAxes) -> int:
    names = (axes,) if isinstance(axes, str) else (axes or ())
    return math.prod(mesh.shape[name] for name in names)


def shardings(mesh: Mesh, rules: Rules, specs):
    """Where the arrays of a tree of `ParamSpec` lie. Raises InputError for a dimension that its axes do not divide.

    A small table is whole on every device; a large one is padded so that devices can share it (`params.table_rows`).
    """

    def one(path, spec: ParamSpec) -> NamedSharding:
        cut, units = [], (*(1,) * (len(spec.shape) - 1), spec.unit)
        for name, size, unit in zip(spec.axes, spec.shape, units, strict=True):
            axes = getattr(rules, name) if name else None
            small = name == "puzzles" and size < TABLE_ROWS
            ways = 1 if small else _axis_size(mesh, axes)
            if size % (ways * unit):
                blocks = f" in blocks of {unit}" if unit > 1 else ""
                raise InputError(
                    f"{path_name(path)} {list(spec.shape)} cannot be shared by {ways} devices along its axis of "
                    f"{size}{blocks}; change mesh.fsdp or mesh.tensor, or the model's sizes"
                )
            cut.append(axes if ways > 1 else None)
        return NamedSharding(mesh, PartitionSpec(*cut))

    return jax.tree_util.tree_map_with_path(one, specs, is_leaf=is_spec)


def beside(mesh: Mesh, specs, lies, tree):
    """Where the arrays of an optimiser's state lie: each with the weight that its path ends with, whole where it has
    another shape than that. specs, lies: of the weights."""
    whole, found = replicated(mesh), jax.tree_util.tree_leaves_with_path(specs, is_leaf=is_spec)
    places = {path_name(at): (one.shape, lie) for (at, one), lie in zip(found, jax.tree.leaves(lies), strict=True)}

    def one(path, array):
        name = path_name(path)
        ends = [name.split("/", n)[-1] for n in range(name.count("/") + 1)]
        shape, lie = next((places[end] for end in ends if end in places), (None, whole))
        return lie if shape == array.shape else whole

    return jax.tree_util.tree_map_with_path(one, tree)


def groups(mesh: Mesh) -> list[Mesh]:
    """The devices at each place along `data`, as meshes of their own."""
    return [Mesh(devices[None], MESH_AXES, axis_types=(AxisType.Auto,) * 3) for devices in mesh.devices]


def of_group(tree, mesh: Mesh, group: Mesh):
    """What one of the `groups` of a mesh has of a tree of arrays on it: they stay where they are. What is cut along
    `data` alone is its part of that axis."""
    if mesh.shape["data"] == 1:
        return tree

    def one(x: jax.Array) -> jax.Array:
        ways = [mesh.shape["data"] if axes == "data" else 1 for axes in x.sharding.spec]
        shape = (n // by for n, by in zip(x.shape, ways + [1] * (x.ndim - len(ways)), strict=True))
        place = NamedSharding(group, PartitionSpec(*(None if axes == "data" else axes for axes in x.sharding.spec)))
        parts = {shard.device: shard.data for shard in x.addressable_shards}
        return jax.make_array_from_single_device_arrays(
            tuple(shape), place, [parts[device] for device in group.devices.flat]
        )

    return jax.tree.map(one, tree)


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh, rules: Rules) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec(rules.batch))


def check_batch(mesh: Mesh, rules: Rules, batch_size: int, name: str) -> None:
    """Raise InputError unless the batch divides over the devices that share it."""
    ways = _axis_size(mesh, rules.batch)
    if batch_size % ways:
        near = max(ways, round(batch_size / ways) * ways)
        raise InputError(
            f"{name} {batch_size} is not divisible by the {ways} devices that share it; nearest that is: {near}"
        )


def local_slots(sharding: NamedSharding, batch_size: int) -> np.ndarray:
    """The batch rows [b] int64, ascending, of this process's devices: from the sharding, not the process index."""
    index_map = sharding.addressable_devices_indices_map((batch_size,))
    spans = {(s[0].start or 0, batch_size if s[0].stop is None else s[0].stop) for s in index_map.values()}
    return np.concatenate([np.arange(start, stop) for start, stop in sorted(spans)])


def put_batch(sharding: NamedSharding, batch: dict, batch_size: int) -> dict:
    """Global arrays from this process's rows of a batch (the rows of `local_slots`, in that order)."""
    return {
        name: jax.make_array_from_process_local_data(sharding, rows, (batch_size, *rows.shape[1:]))
        for name, rows in batch.items()
    }


def may_queue(mesh: Mesh) -> bool:
    """Whether a program may be started on the mesh before the one ahead of it has ended.

    Collectives of several CPU devices share one thread pool and can starve each other when programs are queued.
    """
    return mesh.size == 1 or jax.default_backend() != "cpu"


def put_whole(mesh: Mesh, tree):
    """Small arrays that every process has alike, whole on every device."""
    whole = replicated(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_callback(np.shape(x), whole, lambda _: np.asarray(x)), tree)
