"""How many bytes a compiled program moves between a device and its main memory: an estimate from its text.

Every instruction reads its operands and writes its results once, where the compiler placed them in main memory; what
is fused into another one stays on the chip. Of an array that is only cut from, the cuttings count; of one that is
updated in place, the update does. The padding of tiles is left out.
"""

from __future__ import annotations

from trm_jax.aot.hlo import Array, Computation, Instruction, Module

_MOVES_NOTHING = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id", "replica-id"),
    *("while", "conditional", "call", "optimization-barrier", "domain", "iota"),
    *("async-start", "async-update", "async-done"),
}
_NO_COPY = ("AllocateBuffer", "ConcatBitcast")  # custom calls that only name memory
_CUTS = ("dynamic-slice", "slice", "gather")


def _in_memory(arrays) -> int:
    return sum(array.bytes for array in arrays if array.space == 0)


def _results(name: str, computation: Computation) -> tuple[Array, ...]:
    found = computation.instructions.get(name)
    return found.results if found else ()


def _read_inside(fused: Computation, name: str, whole: int) -> int:
    """Bytes read of a fusion's parameter `name`: what is cut from it, none of what is only overwritten, else all."""
    read = 0
    for user in fused.users[name]:
        if user.opcode == "bitcast":
            read += _read_inside(fused, user.name, whole)
        elif user.opcode in _CUTS and user.operands[0] == name:
            read += sum(array.bytes for array in user.results)
        elif user.opcode != "dynamic-update-slice" or user.operands[0] != name:
            return whole
    return min(read, whole)


def _written(fused: Computation, instruction: Instruction) -> int:
    """Bytes written by the results of a fusion whose root is `instruction`."""
    if instruction.opcode == "tuple":
        parts = [fused.instructions.get(name) for name in instruction.operands]
        return sum(_written(fused, part) for part in parts if part is not None)
    if instruction.opcode == "bitcast" and instruction.operands[0] in fused.instructions:
        return _written(fused, fused.instructions[instruction.operands[0]])
    if instruction.opcode == "dynamic-update-slice":
        return sum(array.bytes for array in _results(instruction.operands[1], fused))
    return sum(array.bytes for array in instruction.results)


def _fusion_bytes(module: Module, computation: Computation, fusion: Instruction) -> int:
    [name] = fusion.called("calls")
    fused = module.computations[name]
    moved = min(_written(fused, fused.root), _in_memory(fusion.results))
    for number, operand in enumerate(fusion.operands):
        whole = _in_memory(_results(operand, computation))
        moved += _read_inside(fused, fused.parameter(number).name, whole) if whole else 0
    return moved


def _bytes(module: Module, computation: Computation, instruction: Instruction) -> int:
    """Bytes of one execution of an instruction that is not fused into another one."""
    opcode, results = instruction.opcode, instruction.started
    operands = [array for name in instruction.operands for array in _results(name, computation)]
    if opcode in _MOVES_NOTHING or opcode.endswith("-done"):
        return 0
    if opcode == "custom-call" and any(f'"{target}"' in instruction.attributes for target in _NO_COPY):
        return 0
    if opcode == "fusion":
        return _fusion_bytes(module, computation, instruction)
    if opcode == "copy-start":  # (copy, original, context)
        return _in_memory(instruction.results[:2])
    if opcode == "slice-start":
        [part] = results
        return part.bytes * ((operands[0].space == 0) + (part.space == 0))
    if opcode in _CUTS:
        part = sum(array.bytes for array in results)
        return part * (operands[0].space == 0) + _in_memory(results)
    if opcode == "dynamic-update-slice":
        update = operands[1].bytes
        return update * (results[0].space == 0) + _in_memory(operands[1:2])
    return _in_memory(results) + _in_memory(operands)


def memory_traffic(module: Module) -> int:
    """Bytes a device reads from and writes to its main memory in one run; loops of unknown length run once."""
    return sum(
        times.count * sum(_bytes(module, computation, one) for one in computation.instructions.values())
        for computation, times in module.executions()
        if not times.fused
    )
