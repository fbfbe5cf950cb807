"""What programs are made for: a platform, of this machine or of devices that are not here, and a mesh of devices."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import jax
from jax import lax
from jax.experimental.layout import Layout, with_layout_constraint
from jax.sharding import Mesh, PartitionSpec

from trm_jax.errors import InputError

_given: ContextVar[tuple[str, float] | None] = ContextVar("platform", default=None)
_placed: ContextVar[tuple[Mesh, Mapping[str, Any]] | None] = ContextVar("mesh", default=None)


def platform() -> str:
    """'cpu', 'gpu' or 'tpu'."""
    given = _given.get()
    return given[0] if given else jax.default_backend()


@contextmanager
def _holding(variable: ContextVar, value) -> Iterator[None]:
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)


def made_for(name: str, capability: float = 0.0):
    """A context: what is traced inside is for platform `name`, whatever this machine has; capability: of a GPU."""
    return _holding(_given, (name, capability))


def placed_on(mesh: Mesh, axes: Mapping[str, Any]):
    """A context or decorator: what is traced inside runs on `mesh`; axes: logical axis -> the mesh axes that share it.

    For example {"batch": ("data", "fsdp"), "heads": "tensor"}.
    """
    return _holding(_placed, (mesh, axes))


def compute_capability() -> float:
    """Of the GPU that programs are made for; 0 on another platform."""
    if given := _given.get():
        return given[1]
    here = jax.devices()[0]
    return float(getattr(here, "compute_capability", 0.0)) if here.platform == "gpu" else 0.0


def row_major(x: jax.Array) -> jax.Array:
    """x, row-major in memory on a GPU: left to choose, XLA transposes it between products."""
    if platform() != "gpu":
        return x
    return with_layout_constraint(x, Layout(tuple(range(x.ndim))))


def alone() -> bool:
    """Whether what is traced computes with one device's own arrays, so that no axis of them is shared."""
    placed = _placed.get()
    return placed is None or placed[0].size == 1


def summed_over_devices(function: Callable, whole, rows):
    """`function(whole, rows) -> (sums, of_rows)`, called by every device of the mesh with its own rows; its sums are
    added up once, at the end. whole: what every device has; rows, of_rows: trees of arrays [B, ...].

    Left to the compiler, where a mesh shares more than the batch and where there is no mesh.
    """
    mesh, axes = _placed.get() or (None, {})
    batch = axes.get("batch") or ()
    if mesh is None or mesh.size == 1 or math.prod(mesh.shape[axis] for axis in batch) != mesh.size:
        return function(whole, rows)

    def of_device(whole, rows):
        with _holding(_placed, None):
            sums, of_rows = function(whole, rows)
        return lax.psum(sums, batch), of_rows

    everywhere, shared = PartitionSpec(), PartitionSpec(batch)
    specs = {"in_specs": (everywhere, shared), "out_specs": (everywhere, shared)}
    return jax.shard_map(of_device, mesh=mesh, check_vma=False, **specs)(whole, rows)


def shared_out(function: Callable, stack: jax.Array) -> jax.Array:
    """`function(stack)`, where the devices of the mesh share the stack [L, ...]; `function` treats its entries alone.

    As many devices as divide both L and the mesh's size take equal parts and gather the results; where more are left,
    each further group of so many does the same.
    """
    mesh, _ = _placed.get() or (None, {})
    ways = math.gcd(len(stack), mesh.size) if mesh is not None else 1
    if ways == 1:
        return function(stack)

    def of_device(stack):
        size = len(stack) // ways
        part = lax.dynamic_slice_in_dim(stack, lax.axis_index("share") * size, size)
        return lax.all_gather(function(part), "share", tiled=True)

    # Cut inside: were the stack given in parts, XLA would make it in parts, and gather what else comes of it.
    groups, whole = Mesh(mesh.devices.reshape(-1, ways), ("group", "share")), PartitionSpec()
    return jax.shard_map(of_device, mesh=groups, in_specs=whole, out_specs=whole, check_vma=False)(stack)


def on_each_device(function: Callable, arguments: Sequence, results: Sequence) -> Callable:
    """`function`, called by every device of the mesh with its own parts of the arrays; without a mesh, `function`.

    arguments, results: of each array, the logical axis of each dimension or None; `function` returns a tuple. Raises
    InputError for a dimension that the devices cannot share.
    """
    if alone():
        return function
    mesh, axes = _placed.get()
    specs, out_specs = (tuple(PartitionSpec(*map(axes.get, names)) for names in each) for each in (arguments, results))
    mapped = jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=out_specs, check_vma=False)

    def checked(*arrays):
        for names, spec, array in zip(arguments, specs, arrays, strict=True):
            for name, on, size in zip(names, spec, array.shape, strict=True):
                ways = math.prod(mesh.shape[one] for one in ((on,) if isinstance(on, str) else on or ()))
                if size % ways:
                    raise InputError(f"{size} {name} cannot be shared by {ways} devices; change the mesh")
        return mapped(*arrays)

    return checked
