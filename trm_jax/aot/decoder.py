"""A language model's reading of prompts and writing of a token, compiled for a TPU slice that is not at hand."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from trm_jax import sharding
from trm_jax.aot.compile import apart, compile_lowered
from trm_jax.aot.programs import devices
from trm_jax.models import decoder, params, target
from trm_jax.planning import Device, hardware, language

COMMAND = (sys.executable, "-m", "trm_jax.aot.decoder")  # compiles one program
KINDS = ("read a prompt", "write a token")


def lower(asked: language.Asked, kind: str, topology: Device) -> jax.stages.Lowered:
    """One of `KINDS`, traced: prompts as long as the context, and a token of each row behind as many."""
    rules, cfg = sharding.Rules(), asked.cfg
    mesh = sharding.make_mesh(**language.needs(asked, topology).mesh, devices=devices(topology))
    sharding.check_batch(mesh, rules, asked.rows, "batch")
    specs, rows = asked.specs(), sharding.batch_sharding(mesh, rules)

    def there(x, place: NamedSharding):
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place)

    weights = jax.tree.map(there, params.abstract(specs), sharding.shardings(mesh, rules, specs))
    tokens = jax.ShapeDtypeStruct((asked.rows, asked.context), jnp.int32, sharding=rows)
    batch = {"inputs": tokens, "segments": tokens}
    begin = partial(decoder.begin, cfg=cfg, room=asked.context)
    with target.made_for("tpu"), sharding.traced_on(mesh, rules):
        state = jax.eval_shape(begin, weights, batch=batch)
        of = {name: rows for name in ("logits", "seen", "number")} | {"slot": sharding.replicated(mesh)}
        heads = NamedSharding(mesh, PartitionSpec(None, rules.batch, None, rules.heads))
        places = of | {"cache": (heads, heads)}
        if kind == KINDS[0]:
            return jax.jit(begin, out_shardings=places).lower(weights, batch=batch)
        state = {name: jax.tree.map(there, state[name], places[name]) for name in state}
        token = jax.ShapeDtypeStruct((asked.rows,), jnp.int32, sharding=rows)
        advance = jax.jit(partial(decoder.advance, cfg=cfg), donate_argnames="state", out_shardings=places)
        return advance.lower(weights, state=state, tokens=token)


def compile_kind(words: dict, kind: str, topology: Device, root: Path) -> dict:
    """What becomes of one of `KINDS`, as `aot.compile.NOTHING` lists it; kept in `root`.

    words: {"model", "dtype", "rope_theta"} as `planning.language.find` takes them, {"how", "context", "rows"} of an
    `Asked`.
    """
    return apart(COMMAND, {"words": words, "kind": kind}, topology, root)


def main() -> None:
    """Compile what `compile_kind` asks for on standard input; print what becomes of it as JSON."""
    request = json.load(sys.stdin)
    topology, words = hardware.find_slice(request["topology"]), request["words"]
    found = {name: words.pop(name) for name in ("model", "dtype", "rope_theta")}
    _, cfg, declared = language.find(found.pop("model"), **found)
    lowered = lower(language.Asked(cfg, declared, **words), request["kind"], topology)
    print(json.dumps(compile_lowered(lowered, topology, Path(request["root"]))))


if __name__ == "__main__":
    main()
