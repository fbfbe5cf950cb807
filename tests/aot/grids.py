"""Compile the training step of a TRM on 900 cells for a v4-64, in a process of its own: what becomes of it, as JSON.

python -m tests.aot.grids maze_hard splash FOLDER    # or arc1; or dense; FOLDER keeps the result
"""

import dataclasses
import json
import sys
from pathlib import Path

import jax.numpy as jnp

from trm_jax.aot import compile as aot
from trm_jax.aot import programs
from trm_jax.configs import registry, resolve
from trm_jax.planning import hardware
from trm_jax.tasks.sudoku import SudokuTask

# Tasks of their own do not exist yet: the shapes are those of the official configurations. ARC's table has a row for
# each augmented puzzle.
SHAPES = {"maze_hard": {"vocab_size": 6}, "arc1": {"vocab_size": 12, "num_puzzle_ids": 876_406}}


class Cells(SudokuTask):
    def batch_spec(self, cfg):
        return {"inputs": ((900,), jnp.int32), "labels": ((900,), jnp.int32), "puzzle_ids": ((), jnp.int32)}


def compiled(name: str, attention_impl: str, root: Path) -> dict:
    cfg = resolve.freeze(registry.get("baseline"))
    shape = {"seq_len": 900, "H_cycles": 3, "L_cycles": 4, "mlp_t": False, "pos_encodings": "rope"} | SHAPES[name]
    model = dataclasses.replace(cfg.model, attention_impl=attention_impl, **shape)
    train = dataclasses.replace(cfg.train, batch_size=768)
    cfg = dataclasses.replace(cfg, task=Cells(), model=model, train=train)
    topology = hardware.find_slice("v4-64")
    return aot.compile_lowered(
        programs.lower(cfg, ("train", model), programs.devices(topology), topology.usable_bytes), topology, root
    )


if __name__ == "__main__":
    print(json.dumps(compiled(*sys.argv[1:3], Path(sys.argv[3]))))
