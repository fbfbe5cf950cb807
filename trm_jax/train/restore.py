"""Parameters of a run, for everything that uses a model after training."""

from __future__ import annotations

from contextlib import closing
from functools import partial

import jax

from trm_jax import sharding
from trm_jax.errors import InputError
from trm_jax.storage.paths import AnyPath
from trm_jax.train.checkpoint import Checkpoints, Damaged, pick_step
from trm_jax.train.config import RunConfig
from trm_jax.train.state import abstract_state, initial_state, shardings_of
from trm_jax.train.writers import CHECKPOINTS


def load_params(cfg: RunConfig, workdir: AnyPath, which: str, mesh, *, live: bool = False) -> tuple[dict, int]:
    """(params, step) of checkpoint `which` ("latest", "best" or a step): averaged weights, or the `live` ones.

    Only the parameters are read; they are laid out over `mesh`. Raises InputError when there is no such checkpoint
    or it is damaged.
    """
    with closing(Checkpoints(workdir / CHECKPOINTS, cfg.task.headline)) as checkpoints:
        step = pick_step(checkpoints, which)
        full = abstract_state(cfg, mesh)
        try:
            state, _ = checkpoints.restore(step, {"params": full.params, "ema": full.ema})
        except Damaged as error:
            others = [s for s in checkpoints.steps() if s != step]
            raise InputError(
                f"checkpoint {step} of {workdir} is damaged ({error}); "
                f"others: {', '.join(map(str, others)) or 'none'} (--checkpoint STEP)"
            ) from error
    params = state["params"]
    if state["ema"] and not live:
        params = {**params, "weights": state["ema"]}
    return params, step


def save_imported(cfg: RunConfig, workdir: AnyPath, params: dict) -> None:
    """Make `params` the state of a run at step 0, weights and average alike, with a fresh optimiser and carry."""
    mesh = sharding.make_mesh(cfg.mesh.data, cfg.mesh.fsdp, cfg.mesh.tensor)
    lies = shardings_of(abstract_state(cfg, mesh))
    state = jax.jit(partial(initial_state, cfg), out_shardings=lies)(jax.random.key(cfg.seed))
    params = jax.device_put(params, lies.params)
    state = state.replace(
        params=params,
        ema=params["weights"] if cfg.optim.ema_decay else {},
        ema_also={name: params["weights"] for name in state.ema_also},
    )
    with closing(Checkpoints(workdir / CHECKPOINTS, cfg.task.headline, cfg.checkpoint)) as checkpoints:
        checkpoints.save(0, state, {})
        checkpoints.wait()
