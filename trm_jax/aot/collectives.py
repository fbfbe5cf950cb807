"""What the devices of a compiled program send to one another."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

from trm_jax.aot.hlo import Array, Computation, Instruction, Module

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")


@dataclass(frozen=True)
class Collective:
    """One collective instruction. Bytes are of one device and of all its executions in one run of the program.

    bytes: of the whole arrays, as every device has them before a reduce-scatter and after all others.
    sent_bytes: what a device must send at least, whatever the algorithm: for n devices that take part (n - 1) / n of
    the arrays, twice for an all-reduce; all of it for a permutation.
    times: executions, where `known` is false counted as if a loop of unknown length ran once.
    """

    kind: str
    arrays: tuple[str, ...]
    bytes: int
    sent_bytes: float
    devices: int
    times: int
    known: bool
    where: str  # the operation of the program that it comes from; empty where the compiler does not say


def _group_size(instruction: Instruction, partitions: int) -> int:
    """Devices that take part together; the groups come as lists, as an iota or as axes of a mesh."""
    text = instruction.attributes
    if axes := re.search(r"replica_groups=mesh\[([^\]]*)\] *\{([^}]*)\}", text):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", axes[1]))
        return math.prod(int(sizes[name]) for name in re.findall(r"'(\w+)'", axes[2]))
    if iota := re.search(r"replica_groups=\[\d+,(\d+)\]", text):
        return int(iota[1])
    if listed := re.search(r"replica_groups=\{\{([\d, ]+)\}", text):
        return len(listed[1].split(","))
    return partitions


def _gathered(instruction: Instruction, computation: Computation) -> tuple[Array, ...]:
    """The arrays that a collective is about, each as large as it is where it is whole."""
    if instruction.opcode.startswith("reduce-scatter"):
        operands = (computation.instructions[name].results for name in instruction.operands)
        return tuple(itertools.chain.from_iterable(operands))
    return instruction.started


def collectives(module: Module) -> Iterator[Collective]:
    """All collectives that move something, in no particular order; an asynchronous one counts where it starts."""
    for computation, times in module.executions():
        for instruction in computation.instructions.values():
            kind = instruction.opcode.removesuffix("-start")
            if kind not in KINDS:
                continue
            n = 2 if kind == "collective-permute" else _group_size(instruction, module.partitions)
            if n < 2:
                continue
            moved = _gathered(instruction, computation)
            size = times.count * sum(array.bytes for array in moved)
            share = {"all-reduce": 2 * (n - 1) / n, "collective-permute": 1.0}.get(kind, (n - 1) / n)
            where = re.search(r'op_name="([^"]*)"', instruction.attributes)
            yield Collective(
                kind,
                tuple(str(array) for array in moved),
                size,
                share * size,
                n,
                times.count,
                times.known,
                where[1] if where else "",
            )
