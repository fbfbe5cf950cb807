"""`python -m trm_jax.aot.child`: compile one program, keep what was found.

Reads {"config", "topology", "kind", "cycles", "root": of the store, "settings": the key there} as JSON from standard
input; prints {"cached": whether the same program had been compiled before, for other settings}.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from pathlib import Path

import jax
from ml_collections import ConfigDict

from trm_jax.aot import collectives, hlo, store, topologies, traffic
from trm_jax.aot.compile import Memory, overflow
from trm_jax.aot.programs import Program, lower
from trm_jax.configs import resolve


def _compile(lowered: jax.stages.Lowered) -> dict:
    """The result: fields of `compile.Compiled`."""
    begin = time.monotonic()
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if sizes := overflow(str(error)):
            return {"overflow": sizes, "compile_seconds": time.monotonic() - begin}
        raise
    seconds = time.monotonic() - begin
    stats, module = compiled.memory_analysis(), hlo.parse(compiled.as_text())
    found = list(collectives.collectives(module))
    memory = Memory(
        arguments=stats.argument_size_in_bytes,
        outputs=stats.output_size_in_bytes,
        aliased=stats.alias_size_in_bytes,
        temporaries=stats.temp_size_in_bytes,
        code=stats.generated_code_size_in_bytes,
    )
    return {
        "memory": dataclasses.asdict(memory),
        "collectives": [dataclasses.asdict(one) for one in found],
        "traffic_bytes": traffic.memory_traffic(module),
        "unknown_loops": not all(times.known for _, times in module.executions()),
        "compile_seconds": seconds,
    }


def main() -> None:
    request = json.load(sys.stdin)
    topology, root = topologies.find(request["topology"]), Path(request["root"])
    config, program = ConfigDict(request["config"]), Program(request["kind"], tuple(request["cycles"]))
    begin = time.monotonic()
    lowered = lower(resolve.freeze(config), program, topologies.devices(topology))
    key = store.program_key(lowered.as_text(), topology.name)
    lower_seconds = time.monotonic() - begin
    known = store.result(root, key)
    if not known:
        store.keep(root, key, {**_compile(lowered), "lower_seconds": lower_seconds})
    said = {"name": config.name, "topology": topology.name, **dataclasses.asdict(program)}
    store.link(root, request["settings"], key, said)
    print(json.dumps({"cached": bool(known)}))


if __name__ == "__main__":
    main()
