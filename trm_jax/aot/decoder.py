"""A language model's programs, compiled for a device that is not at hand: reading prompts, writing a token, and an
update of its training."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from trm_jax import sharding
from trm_jax.aot.compile import apart, compile_lowered
from trm_jax.aot.programs import devices
from trm_jax.models import decoder, params
from trm_jax.models.lora import Lora
from trm_jax.planning import Device, hardware, language
from trm_jax.solvers import adapt

COMMAND = (sys.executable, "-m", "trm_jax.aot.decoder")  # compiles one program
KINDS = ("read a prompt", "write a token")
UPDATE = "an update"


def there(x, place: NamedSharding):
    """An abstract array that knows where it lies."""
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place)


def lower(asked: language.Asked, kind: str, device: Device) -> jax.stages.Lowered:
    """One of `KINDS` or `UPDATE`, traced: prompts as long as the context and a token of each row behind as many, or
    texts as long."""
    rules, cfg = sharding.Rules(), asked.cfg
    mesh = sharding.make_mesh(**language.needs(asked, device).mesh, devices=devices(device))
    specs, rows = asked.specs(), sharding.batch_sharding(mesh, rules)
    weights = jax.tree.map(there, params.abstract(specs), sharding.shardings(mesh, rules, specs))
    if kind == UPDATE:
        with device.target():
            return _update(asked, weights, mesh)
    sharding.check_batch(mesh, rules, asked.rows, "batch")
    tokens = jax.ShapeDtypeStruct((asked.rows, asked.context), jnp.int32, sharding=rows)
    batch = {"inputs": tokens, "segments": tokens}
    begin = partial(decoder.begin, cfg=cfg, room=asked.context)
    with device.target(), sharding.traced_on(mesh, rules):
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


def _update(asked: language.Asked, weights: dict, mesh: Mesh) -> jax.stages.Lowered:
    """An update of an adapter for each place along `data`, traced."""
    trainer, tasks = adapt.Trainer(asked.recipe(), asked.cfg, mesh), mesh.shape["data"]
    texts = jax.ShapeDtypeStruct((tasks, asked.rows, asked.context), jnp.int32, sharding=trainer.batch_lies)
    rates = jax.ShapeDtypeStruct((tasks,), jnp.float32, sharding=trainer.task_lies)
    state = trainer.abstract(tasks)
    return trainer.program.lower(weights, state, dict.fromkeys(("inputs", "labels", "segments"), texts), rates)


def compile_kind(words: dict, kind: str, topology: Device, root: Path) -> dict:
    """What becomes of one of `KINDS` or `UPDATE`, as `aot.compile.NOTHING` lists it; kept in `root`.

    words: {"model", "dtype", "rope_theta"} as `planning.language.find` takes them, and others of an `Asked`, whose
    "train" is None or what a `Lora` is made of.
    """
    return apart(COMMAND, {"words": words, "kind": kind}, topology, root)


def main() -> None:
    """Compile what `compile_kind` asks for on standard input; print what becomes of it as JSON."""
    request = json.load(sys.stdin)
    topology, words = hardware.find(request["topology"]), request["words"]
    train = Lora(**{**words["train"], "targets": tuple(words["train"]["targets"])}) if words["train"] else None
    found = {name: words.pop(name) for name in ("model", "dtype", "rope_theta")}
    _, cfg, declared = language.find(found.pop("model"), **found)
    lowered = lower(language.Asked(cfg, declared, **{**words, "train": train}), request["kind"], topology)
    print(json.dumps(compile_lowered(lowered, topology, Path(request["root"]))))


if __name__ == "__main__":
    main()
