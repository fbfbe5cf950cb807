"""Reading the text of a compiled program: its instructions, their shapes, and how often each part of it runs."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

# Bits of an element. "token" and the like are none.
_BITS = {"pred": 8, "s2": 2, "u2": 2, "s4": 4, "u4": 4, "f4e2m1fn": 4, "c64": 64, "c128": 128}
_ARRAY = re.compile(r"\b([a-z]+[0-9a-z]*)\[([0-9,<= ]*)\](?:\{([^{}]*)\})?")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%([\w.\-]+) = (.*)$")
_COMPUTATION = re.compile(r"^(ENTRY )?%([\w.\-]+) .*\{$")
_NAME = re.compile(r"%([\w.\-]+)")
_CALLED = {
    "fusion": ("calls",),
    "call": ("to_apply", "calls"),
    "async-start": ("calls", "called_computations"),
    "conditional": ("branch_computations", "true_computation", "false_computation"),
}


def _bits(dtype: str) -> int:
    if dtype in _BITS:
        return _BITS[dtype]
    width = re.match(r"[a-z]+(\d+)", dtype)
    return int(width[1]) if width else 0


@dataclass(frozen=True)
class Array:
    """An array of a program; `space` is the memory that it lies in, 0 for the device's main memory."""

    dtype: str
    dims: tuple[int, ...]
    space: int

    @property
    def bytes(self) -> int:
        return math.ceil(math.prod(self.dims) * _bits(self.dtype) / 8)

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.dims))}]"


def arrays(text: str) -> tuple[Array, ...]:
    """The arrays of a type, those of a tuple in order: `(f32[8,2]{1,0:T(8,128)S(3)}, s32[])`."""
    found = []
    for dtype, dims, layout in _ARRAY.findall(text):
        space = re.search(r"S\((\d+)\)", layout)
        sizes = tuple(int(size.removeprefix("<=")) for size in dims.replace(" ", "").split(",") if size)
        found.append(Array(dtype, sizes, int(space[1]) if space else 0))
    return tuple(found)


@dataclass(frozen=True)
class Instruction:
    """`attributes` is all that stands behind the operands."""

    name: str
    opcode: str
    results: tuple[Array, ...]
    operands: tuple[str, ...]
    argument: str  # what stands between the parentheses: a parameter's number, a constant's value
    attributes: str

    @property
    def started(self) -> tuple[Array, ...]:
        """The results proper of an asynchronous start, whose tuple also holds its operands and numbers of its own."""
        if self.opcode.endswith("-start") and self.opcode != "all-reduce-start":
            return self.results[len(self.operands) : 2 * len(self.operands)]
        return self.results

    def called(self, *names: str) -> list[str]:
        """Computations that the given attributes name."""
        found = []
        for name in names:
            for one, several in re.findall(rf"\b{name}=(?:%([\w.\-]+)|\{{([^}}]*)\}})", self.attributes):
                found += [one] if one else _NAME.findall(several)
        return found


@dataclass(frozen=True)
class Computation:
    name: str
    instructions: dict[str, Instruction]
    root: Instruction

    def parameter(self, number: int) -> Instruction:
        for instruction in self.instructions.values():
            if instruction.opcode == "parameter" and instruction.argument == str(number):
                return instruction
        raise ValueError(f"{self.name} has no parameter {number}")

    @cached_property
    def users(self) -> dict[str, list[Instruction]]:
        """Instructions that use the value of a name."""
        found = defaultdict(list)
        for instruction in self.instructions.values():
            for operand in dict.fromkeys(instruction.operands):
                found[operand].append(instruction)
        return found


@dataclass(frozen=True)
class Times:
    """How often a computation runs in one execution of the program; `known` when every loop around it says how often.

    A loop that does not say is counted once. `fused`: its instructions run inside another one.
    """

    count: int
    known: bool = True
    fused: bool = False


@dataclass(frozen=True)
class Module:
    computations: dict[str, Computation]
    entry: str
    partitions: int  # devices that run it together

    def executions(self) -> Iterator[tuple[Computation, Times]]:
        """The computations that run, one called from several places as often; every branch as if it were taken."""
        waiting = [(self.entry, Times(1))]
        while waiting:
            name, times = waiting.pop()
            computation = self.computations[name]
            yield computation, times
            for instruction in computation.instructions.values():
                if instruction.opcode == "while":
                    trips = self._trips(computation, instruction)
                    inner = Times(
                        times.count * (1 if trips is None else trips), times.known and trips is not None, times.fused
                    )
                    waiting += [(body, inner) for body in instruction.called("body")]
                elif instruction.opcode in _CALLED:
                    fused = times.fused or instruction.opcode == "fusion"
                    inner = Times(times.count, times.known, fused)
                    waiting += [(called, inner) for called in instruction.called(*_CALLED[instruction.opcode])]

    def _trips(self, computation: Computation, loop: Instruction) -> int | None:
        """How often the loop's body runs: as annotated, or counting up by 1 to a constant as `lax.scan` does."""
        if annotated := re.search(r'"known_trip_count":\{"n":"(\d+)"\}', loop.attributes):
            return int(annotated[1])
        [name] = loop.called("condition")
        condition = self.computations[name]
        compare = condition.root
        values = [condition.instructions.get(operand) for operand in compare.operands]
        if compare.opcode == "fusion":  # the comparison lies inside, what it compares outside
            [inner] = compare.called("calls")
            compare = self.computations[inner].root
            inside = [self.computations[inner].instructions.get(operand) for operand in compare.operands]
            values = [
                values[int(value.argument)] if value is not None and value.opcode == "parameter" else value
                for value in inside
            ]
        if compare.opcode != "compare" or "direction=LT" not in compare.attributes or len(values) != 2:
            return None
        counter, limit = values
        if not counter or not limit or limit.opcode != "constant" or counter.opcode != "get-tuple-element":
            return None
        return int(limit.argument) - self._start(computation, loop, counter)

    def _start(self, computation: Computation, loop: Instruction, counter: Instruction) -> int:
        """Where a loop's counter begins: the constant that it is given, 0 where that cannot be seen."""
        state = computation.instructions.get(loop.operands[0])
        index = re.search(r"index=(\d+)", counter.attributes)
        if state is None or state.opcode != "tuple" or not index:
            return 0
        first = computation.instructions.get(state.operands[int(index[1])])
        while first is not None and first.opcode == "copy":
            first = computation.instructions.get(first.operands[0])
        return int(first.argument) if first is not None and first.opcode == "constant" else 0


def _until_closed(text: str) -> int:
    """The place behind the parenthesis that closes the one `text` begins with."""
    depth = 0
    for match in re.finditer(r"[()]", text):
        depth += 1 if match[0] == "(" else -1
        if depth == 0:
            return match.end()
    raise ValueError(f"unbalanced: {text[:80]}")


def _instruction(name: str, text: str) -> Instruction:
    end = _until_closed(text) if text.startswith("(") else text.index(" ")
    kind, rest = text[:end], text[end:].lstrip()
    opcode, _, _ = rest.partition("(")
    rest = rest[len(opcode) :]
    close = _until_closed(rest)
    argument = rest[1 : close - 1]
    return Instruction(name, opcode, arrays(kind), tuple(_NAME.findall(argument)), argument, rest[close:])


def parse(text: str) -> Module:
    """A module from `Compiled.as_text()`."""
    computations: dict[str, Computation] = {}
    entry, name, instructions, root = "", "", {}, None
    for line in text.splitlines():
        if header := _COMPUTATION.match(line):
            name, instructions, root = header[2], {}, None
            entry = name if header[1] else entry
        elif line.startswith("}") and root is not None:
            computations[name] = Computation(name, instructions, root)
        elif found := _INSTRUCTION.match(line):
            instruction = instructions[found[2]] = _instruction(found[2], found[3])
            root = instruction if found[1] else root
    if entry not in computations:
        raise ValueError("this text holds no entry computation")
    partitions = re.search(r"\bnum_partitions=(\d+)", text.partition("\n")[0])
    return Module(computations, entry, int(partitions[1]) if partitions else 1)
