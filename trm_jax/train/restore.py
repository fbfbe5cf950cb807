"""Parameters of a run, for everything that uses a model after training."""

from __future__ import annotations

from contextlib import closing
from functools import partial

import jax
import jax.numpy as jnp

from trm_jax import sharding
from trm_jax.errors import InputError
from trm_jax.models import params as P
from trm_jax.storage.paths import AnyPath, as_path
from trm_jax.train.checkpoint import Checkpoints, Damaged, pick_step
from trm_jax.train.config import RunConfig
from trm_jax.train.state import TrainState, abstract_state, initial_state, shardings_of
from trm_jax.train.writers import CHECKPOINTS


def load_params(cfg: RunConfig, workdir: AnyPath, which: str, mesh, *, live: bool = False) -> tuple[dict, int]:
    """(params, step) of checkpoint `which` ("latest", "best" or a step): averaged weights, or the `live` ones.

    Only the parameters are read; they are laid out over `mesh`. Raises InputError when there is no such checkpoint
    or it is damaged.
    """
    specs = cfg.family.specs(cfg.model)
    lie = sharding.shardings(mesh, sharding.Rules(), specs)
    params = jax.tree.map(lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), P.abstract(specs), lie)
    wanted = {"params": params, "ema": params["weights"] if cfg.optim.ema_decay else {}}
    with closing(Checkpoints(workdir / CHECKPOINTS, cfg.task.headline)) as checkpoints:
        step = pick_step(checkpoints, which)
        try:
            state, _ = checkpoints.restore(step, wanted)
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


def with_given(params: dict, data, mesh, *names: str) -> dict:
    """`params` with the frozen ones that come with `data`, a source whose given(params) makes some; names: only those.

    Raises InputError where they do not fit the model.
    """
    given = getattr(data, "given", None)
    found = given(params) if given else {}
    return params | {name: sharding.put_whole(mesh, found[name]) for name in names or found if name in found}


def started_from(cfg: RunConfig, state: TrainState, mesh) -> TrainState:
    """`state` with the averaged weights and the tables of the run that `train.start_from` names.

    Rows of ids that do not mean the same there are the mean of its rows. Raises InputError for another model.
    """
    place, theirs = as_path(cfg.train.start_from).expanduser(), cfg.start()
    for one in theirs.lineage(cfg.task) if hasattr(cfg.task, "follows") else ():
        cfg.task.follows(one.data, cfg.data)
    params, _ = load_params(theirs, place.resolve(), cfg.train.start_at, mesh)
    ours, found = (P.abstract(c.family.specs(c.model)) for c in (cfg, theirs))
    for name in getattr(cfg.family, "OWN", ()):
        if name in ours:
            params[name], found[name] = state.params[name], ours[name]
        elif name in state.params["weights"]:
            params["weights"].setdefault(name, state.params["weights"][name])
    kept = getattr(cfg.task, "kept_ids", None)
    count = kept(cfg.data, theirs.data) if kept and theirs.task is cfg.task else theirs.model.num_puzzle_ids

    def resized(table: jax.Array, like: jax.Array, ids: tuple[int, int]) -> jax.Array:
        resize = partial(_resized, ids=ids, kept=min(count, *ids), rows=like.shape[0])
        return jax.jit(resize, out_shardings=like.sharding)(table)

    def weight(spec: P.ParamSpec, x: jax.Array, like: jax.Array) -> jax.Array:
        same = spec.kind != "id_embedding" or x.shape[1:] != like.shape[1:]
        return x if same else resized(x, like, (len(x), len(like)))

    specs = cfg.family.specs(cfg.model)["weights"]
    if jax.tree.structure(specs, is_leaf=P.is_spec) == jax.tree.structure(params["weights"]):
        params["weights"] = jax.tree.map(weight, specs, params["weights"], state.params["weights"], is_leaf=P.is_spec)
        found["weights"] = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params["weights"])
    for name, want in ours.items():
        if name not in cfg.tables and found.get(name) != want:
            raise InputError(f"train.start_from={place} is another model: its {name} differ; set model.* as there")
    for name in cfg.tables:
        if name not in found or found[name].shape[1:] != ours[name].shape[1:]:
            raise InputError(f"train.start_from={place} has no {name} of that width; set model.* as there")
        ids = theirs.model.num_puzzle_ids, cfg.model.num_puzzle_ids
        params[name] = resized(params[name], state.params[name], ids)
    return _with_params(state, params)


def _resized(table: jax.Array, *, ids: tuple[int, int], kept: int, rows: int) -> jax.Array:
    """A table [rows, ...] of which the first `kept` rows are those of `table` and the others their mean.

    ids: how many rows are in use (there, here), the others are padding. Row 0 is left out of the mean: most tables have
    a blank id, which no puzzle has.
    """
    there, here = ids
    mean = table[min(1, there - 1) : there].mean(0, keepdims=True)
    new = jnp.broadcast_to(mean, (here - kept, *table.shape[1:]))
    return jnp.concatenate([table[:kept], new, jnp.zeros((rows - here, *table.shape[1:]), table.dtype)])


def _with_params(state: TrainState, params: dict) -> TrainState:
    """A state at its beginning with other parameters, whose averages they are too."""

    def average():  # a copy: a donated state must not hold one buffer under two names
        return jax.tree.map(jnp.copy, params["weights"])

    also = {name: average() for name in state.ema_also}
    return state.replace(params=params, ema=average() if state.ema else {}, ema_also=also)


def save_imported(cfg: RunConfig, workdir: AnyPath, params: dict) -> None:
    """Make `params` the state of a run at step 0, weights and average alike, with a fresh optimiser and carry."""
    mesh = sharding.make_mesh(cfg.mesh.data, cfg.mesh.fsdp, cfg.mesh.tensor)
    lies = shardings_of(abstract_state(cfg, mesh))
    state = jax.jit(partial(initial_state, cfg), out_shardings=lies)(jax.random.key(cfg.seed))
    state = _with_params(state, jax.device_put(params, lies.params))
    with closing(Checkpoints(workdir / CHECKPOINTS, cfg.task.headline, cfg.checkpoint)) as checkpoints:
        checkpoints.save(0, state, {})
        checkpoints.wait()
