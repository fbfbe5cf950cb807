"""The TRM as a Flax linen module, for people who compose with linen; the model itself is `trm_jax.models.trm`.

model = TRM(cfg)
carry = model.initial_carry(batch_size)
variables = model.init(jax.random.key(0), carry, batch)
carry, out = model.apply(variables, carry, batch, train=True, rngs={"halt": key})
"""

from __future__ import annotations

from functools import partial

import jax
from flax import linen as nn

from trm_jax.models import params as P
from trm_jax.models import trm


class TRM(nn.Module):
    """One supervision step as a module, with the parameters that `trm.specs(cfg)` declares.

    Collections: "params" (the trained weights), "buffers" (the fixed initial latents), "puzzle_emb" (the puzzle
    table, to be trained by an optimiser of its own). The random stream "halt" is drawn from only in training with
    exploration or late starts. Everything is created in `setup`, so after `init` a call may stand inside `lax.scan`.
    """

    cfg: trm.TRMConfig

    def setup(self):
        specs = trm.specs(self.cfg)
        self.weights = {name: self.param(name, partial(P.init, spec)) for name, spec in specs["weights"].items()}
        self.buffers = {name: self._fixed("buffers", name, spec) for name, spec in specs["buffers"].items()}
        self.tables = {n: self._fixed(n, "table", specs[n]) for n in ("puzzle_emb",) if n in specs}

    def _fixed(self, collection: str, name: str, spec: P.ParamSpec) -> jax.Array:
        return self.variable(collection, name, lambda: P.init(spec, self.make_rng("params"))).value

    def __call__(self, carry: trm.Carry, batch: dict, *, train: bool = False) -> tuple[trm.Carry, trm.Output]:
        """As `trm.step`: refill halted rows from `batch`, think, say, decide who has finished."""
        explores = self.cfg.halt_exploration_prob > 0 and self.cfg.halt_max_steps > 1
        draws = train and (explores or self.cfg.late_start_prob > 0)
        noise = trm.noise(self.cfg, self.make_rng("halt"), carry.steps.size) if draws else {}
        params = {"weights": self.weights, "buffers": self.buffers, **self.tables}
        return trm.step(params, self.cfg, carry, batch, train=train, **noise)

    @nn.nowrap
    def initial_carry(self, batch_size: int) -> trm.Carry:
        """A carry in which every row is halted."""
        return trm.initial_carry(self.cfg, batch_size)


def to_variables(params: dict) -> dict:
    """Parameters of `trm.init` or an imported state dict -> linen variables."""
    tables = {"puzzle_emb": {"table": params["puzzle_emb"]}} if "puzzle_emb" in params else {}
    return {"params": params["weights"], "buffers": params["buffers"], **tables}


def to_params(variables: dict) -> dict:
    """Linen variables -> parameters of the pure functions."""
    tables = {"puzzle_emb": variables["puzzle_emb"]["table"]} if "puzzle_emb" in variables else {}
    return {"weights": variables["params"], "buffers": variables["buffers"], **tables}
