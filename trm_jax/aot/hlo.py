"""Reading the text of a compiled program: how often each part runs, what its devices send, what goes through memory."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_ARRAY = re.compile(r"\b([a-z]+[0-9a-z]*)\[([0-9,<= ]*)\](?:\{([^{}]*)\})?")
# ROOT, name, type, opcode, what stands between the parentheses, attributes.
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%([\w.\-]+) = (.*?) ([a-z][a-z0-9\-]*)\(([^)]*)\)(.*)$")
_COMPUTATION = re.compile(r"^(ENTRY )?%([\w.\-]+) .*\{$")
_NAME = re.compile(r"%([\w.\-]+)")
_CALLERS = ("fusion", "call", "async-start", "conditional")
_CALLED = "calls|to_apply|called_computations|branch_computations|true_computation|false_computation"


class Array(NamedTuple):
    """An array of a program; `space` is the memory that it lies in, 0 for the device's main memory."""

    bytes: int
    space: int


def arrays(text: str) -> tuple[Array, ...]:
    """The arrays of a type, those of a tuple in order: `(f32[8,2]{1,0:T(8,128)S(3)}, s32[])`."""
    found = []
    for dtype, dims, layout in _ARRAY.findall(text):
        width, space = re.match(r"[a-z]+(\d+)", dtype), re.search(r"S\((\d+)\)", layout)
        bits = 8 if dtype == "pred" else int(width[1]) if width else 0  # a token has none
        size = math.prod(int(one.removeprefix("<=")) for one in dims.replace(" ", "").split(",") if one)
        found.append(Array(math.ceil(size * bits / 8), int(space[1]) if space else 0))
    return tuple(found)


@dataclass(frozen=True)
class Instruction:
    """`argument` stands between the parentheses: operands, a parameter's number, a constant's value; `attributes` is
    all behind them."""

    name: str
    opcode: str
    results: tuple[Array, ...]
    operands: tuple[str, ...]
    argument: str
    attributes: str

    @property
    def started(self) -> tuple[Array, ...]:
        """The results proper of an asynchronous start, whose tuple also holds its operands and numbers of its own."""
        if self.opcode.endswith("-start") and self.opcode != "all-reduce-start":
            return self.results[len(self.operands) : 2 * len(self.operands)]
        return self.results

    def called(self, names: str) -> list[str]:
        """Computations that the given attributes (`a|b`) name."""
        found = re.findall(rf"\b(?:{names})=(%[\w.\-]+|\{{[^}}]*\}})", self.attributes)
        return _NAME.findall(" ".join(found))


@dataclass(frozen=True)
class Computation:
    name: str
    instructions: dict[str, Instruction]
    root: Instruction

    def results(self, name: str) -> tuple[Array, ...]:
        return self.instructions[name].results if name in self.instructions else ()


class Execution(NamedTuple):
    """A computation and how often it runs in one execution of the program."""

    computation: Computation
    times: int = 1
    known: bool = True  # every loop around it says how often it runs; one that does not is counted once
    fused: bool = False  # its instructions run inside another one


@dataclass(frozen=True)
class Module:
    computations: dict[str, Computation]
    entry: str
    partitions: int  # devices that run it together

    def executions(self) -> Iterator[Execution]:
        """The computations that run, one called from several places as often; every branch as if it were taken."""
        waiting = [Execution(self.computations[self.entry])]
        while waiting:
            now = waiting.pop()
            yield now
            for instruction in now.computation.instructions.values():
                times, known, fused = now.times, now.known, now.fused or instruction.opcode == "fusion"
                called = instruction.called(_CALLED) if instruction.opcode in _CALLERS else []
                if instruction.opcode == "while":
                    called, trips = instruction.called("body"), self._trips(now.computation, instruction)
                    times, known = times * (1 if trips is None else trips), known and trips is not None
                waiting += [Execution(self.computations[name], times, known, fused) for name in called]

    def _trips(self, around: Computation, loop: Instruction) -> int | None:
        """How often the loop's body runs: as annotated, or counting up by 1 to a constant as `lax.scan` does, from the
        constant that it is given (0 where that cannot be seen)."""
        if annotated := re.search(r'"known_trip_count":\{"n":"(\d+)"\}', loop.attributes):
            return int(annotated[1])
        condition = self.computations[loop.called("condition")[0]]
        compare, found = condition.root, [*condition.instructions.values()]
        for fused in compare.called("calls"):  # the comparison lies inside, what it compares there or outside
            compare = self.computations[fused].root
            found += self.computations[fused].instructions.values()
        limits = [one for one in found if one.opcode == "constant"]
        counters = [one for one in found if one.opcode == "get-tuple-element"]
        if "direction=LT" not in compare.attributes or len(limits) != 1 or len(counters) != 1:
            return None
        first = around.instructions.get(loop.operands[0])
        if first and first.opcode == "tuple":
            index = re.search(r"index=(\d+)", counters[0].attributes)
            first = around.instructions.get(first.operands[int(index[1])])
        while first and first.opcode == "copy":
            first = around.instructions.get(first.operands[0])
        return int(limits[0].argument) - (int(first.argument) if first and first.opcode == "constant" else 0)


def parse(text: str) -> Module:
    """A module from `Compiled.as_text()`. Raises ValueError for a text that is none."""
    computations: dict[str, Computation] = {}
    entry, name, instructions, root = "", "", {}, None
    for line in text.splitlines():
        if header := _COMPUTATION.match(line):
            name, instructions, root = header[2], {}, None
            entry = name if header[1] else entry
        elif line.startswith("}") and root is not None:
            computations[name] = Computation(name, instructions, root)
        elif found := _INSTRUCTION.match(line):
            is_root, own, kind, opcode, argument, attributes = found.groups()
            operands = tuple(_NAME.findall(argument))
            instructions[own] = Instruction(own, opcode, arrays(kind), operands, argument, attributes)
            root = instructions[own] if is_root else root
    if entry not in computations:
        raise ValueError("this text holds no entry computation")
    partitions = re.search(r"\bnum_partitions=(\d+)", text.partition("\n")[0])
    return Module(computations, entry, int(partitions[1]) if partitions else 1)


def _total(found: Iterable[Array]) -> int:
    return sum(array.bytes for array in found)


# What the devices send one another.


def _group_size(text: str, partitions: int) -> int:
    """Devices that take part together; the groups come as lists, as an iota or as axes of a mesh."""
    if axes := re.search(r"replica_groups=mesh\[([^\]]*)\] *\{([^}]*)\}", text):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", axes[1]))
        return math.prod(int(sizes[name]) for name in re.findall(r"'(\w+)'", axes[2]))
    if iota := re.search(r"replica_groups=\[\d+,(\d+)\]", text):
        return int(iota[1])
    listed = re.search(r"replica_groups=\{\{([\d, ]+)\}", text)
    return len(listed[1].split(",")) if listed else partitions


def collectives(module: Module) -> dict[str, dict]:
    """{"all-reduce": {"count", "bytes", "sent_bytes", "bytes_in_loops"}}: of one device, in one run of the program.

    Those that move something, loops of unknown length counted once; an asynchronous one counts where it starts.
    "bytes" are of the whole arrays, as every device has them before a reduce-scatter and after all others;
    "sent_bytes" what a device must send at least, whatever the algorithm: for n devices (n - 1) / n of the arrays,
    twice for an all-reduce, all of it for a permutation.
    """
    found: dict[str, dict] = {}
    for run in module.executions():
        for instruction in run.computation.instructions.values():
            kind = instruction.opcode.removesuffix("-start")
            n = 2 if kind == "collective-permute" else _group_size(instruction.attributes, module.partitions)
            if kind not in COLLECTIVES or n < 2:
                continue
            whole = instruction.started
            if kind == "reduce-scatter":
                whole = [array for name in instruction.operands for array in run.computation.results(name)]
            size = run.times * _total(whole)
            share = {"all-reduce": 2 * (n - 1) / n, "collective-permute": 1.0}.get(kind, (n - 1) / n)
            total = found.setdefault(kind, {"count": 0, "bytes": 0, "sent_bytes": 0.0, "bytes_in_loops": 0})
            total["count"] += run.times
            total["bytes"] += size
            total["sent_bytes"] += share * size
            total["bytes_in_loops"] += size * (run.times > 1)
    return found


# What goes through main memory. Every instruction reads its operands and writes its results once, where the compiler
# placed them in main memory; what is fused into another one stays on the chip. Of an array that is only cut from, the
# cuttings count; of one that is updated in place, the update does. The padding of tiles is left out.

_MOVES_NOTHING = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id", "replica-id"),
    *("while", "conditional", "call", "optimization-barrier", "domain", "iota"),
    *("async-start", "async-update", "async-done"),
}
_NO_COPY = ('"AllocateBuffer"', '"ConcatBitcast"')  # custom calls that only name memory
_CUTS = ("dynamic-slice", "slice", "gather")


def _in_memory(found: Iterable[Array]) -> int:
    return _total(array for array in found if array.space == 0)


def _inside(module: Module, fusion: Instruction) -> tuple[Computation, dict[int, str]]:
    """What a fusion runs, and the names there of its operands, by number."""
    fused = module.computations[fusion.called("calls")[0]]
    return fused, {int(one.argument): one.name for one in fused.instructions.values() if one.opcode == "parameter"}


def _read_inside(module: Module, fused: Computation, name: str, whole: int) -> int:
    """Bytes read of a fusion's parameter `name`: what is cut from it, none of what is only overwritten, else all."""
    read = 0
    for user in (one for one in fused.instructions.values() if name in one.operands):
        if user.opcode == "bitcast" or "output_to_operand_aliasing" in user.attributes:  # tiled otherwise, in place
            read += _read_inside(module, fused, user.name, whole)
        elif user.opcode == "fusion":  # one inside another, as the TPU's compiler cuts a product's operand from a stack
            inner, names = _inside(module, user)
            given = [number for number, operand in enumerate(user.operands) if operand == name]
            read += sum(_read_inside(module, inner, names[number], whole) for number in given)
        elif user.opcode in _CUTS and user.operands[0] == name:
            read += _total(user.results)
        elif user.opcode != "dynamic-update-slice" or user.operands[0] != name:
            return whole
    return min(read, whole)


def _written(module: Module, fused: Computation, name: str) -> int:
    """Bytes written by the results of a fusion whose root is instruction `name`."""
    root = fused.instructions.get(name)
    if root is None:
        return 0
    if root.opcode in ("tuple", "bitcast"):
        return sum(_written(module, fused, part) for part in root.operands)
    if root.opcode == "fusion":
        inner, _ = _inside(module, root)
        return _written(module, inner, inner.root.name)
    return _total(fused.results(root.operands[1]) if root.opcode == "dynamic-update-slice" else root.results)


def _bytes(module: Module, around: Computation, one: Instruction) -> int:
    """Bytes of one execution of an instruction that is not fused into another one."""
    operands = [array for name in one.operands for array in around.results(name)]
    named = one.opcode == "custom-call" and any(target in one.attributes for target in _NO_COPY)
    if named or one.opcode in _MOVES_NOTHING or one.opcode.endswith("-done"):
        return 0
    if one.opcode == "fusion":
        fused, names = _inside(module, one)
        moved = min(_written(module, fused, fused.root.name), _in_memory(one.results))
        for number, operand in enumerate(one.operands):
            whole = _in_memory(around.results(operand))
            moved += _read_inside(module, fused, names[number], whole) if whole else 0
        return moved
    if one.opcode == "copy-start":  # (copy, original, context)
        return _in_memory(one.results[:2])
    if one.opcode in (*_CUTS, "slice-start"):
        return _total(one.started) * (operands[0].space == 0) + _in_memory(one.started)
    if one.opcode == "dynamic-update-slice":
        return operands[1].bytes * (one.results[0].space == 0) + _in_memory(operands[1:2])
    return _in_memory(one.started) + _in_memory(operands)


def memory_traffic(module: Module) -> int:
    """Bytes a device reads from and writes to its main memory in one run; loops of unknown length run once."""
    total = 0
    for run in (run for run in module.executions() if not run.fused):
        total += run.times * sum(_bytes(module, run.computation, one) for one in run.computation.instructions.values())
    return total
