"""URM's Muon, and the AdamW beside it, against its published code."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from trm_jax import optim
from trm_jax.models.params import ParamSpec, constant

KINDS = {"tall": "matrix", "wide": "matrix", "square": "embedding", "head": "head", "conv": "vector", "bias": "vector"}


def test_four_updates(golden_folder):
    """Weights within 1e-6 of their largest magnitude, some roundings of float32; 2e-7 measured. A weight with several
    axes of output is one matrix: "wide" is given as [6, 2, 10].
    """
    with np.load(golden_folder / "variants" / "urm_muon.npz") as file:
        golden = dict(file)

    def state(prefix):
        found = {name: jnp.asarray(golden[f"{prefix}/{name}"]) for name in KINDS}
        return found | {"wide": found["wide"].reshape(6, 2, 10)}

    weights = state("init")
    specs = {n: ParamSpec(w.shape, (None,) * w.ndim, constant(0.0), KINDS[n]) for n, w in weights.items()}

    @jax.jit
    def update(grads, opt_state, weights, lr):
        updates, opt_state = optim.build("urm_muon", specs, lr, weight_decay=0.1).update(grads, opt_state, weights)
        return optax.apply_updates(weights, updates), opt_state

    opt_state = optim.build("urm_muon", specs, 0.0).init(weights)
    for t in range(1, 5):
        weights, opt_state = update(state(f"grad{t}"), opt_state, weights, golden["lr"][t - 1])
        for name, wanted in state(f"state{t}").items():
            off = np.abs(weights[name] - wanted).max() / np.abs(wanted).max()
            assert off <= 1e-6, (name, off)
