"""The token-mixing block: the GPU kernels, interpreted here, against the plain form in float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from trm_jax import sharding
from trm_jax.models import target
from trm_jax.models.token_mlp import mix_tokens

EPS = 1e-5
# Of the norm of the difference by that of the exact value. float32: another order of sums of up to 512 terms.
# Half precision: the inputs are those of the oracle; what is rounded on the way adds up to a few units of 2**-8
# (bfloat16) or 2**-11 (float16).
TOLERANCE = {"float32": 3e-6, "bfloat16": 1.5e-2, "float16": 2e-3}


def block(tokens, inner, seed=0, scale=1.0):
    rng = np.random.default_rng(seed)
    gate_up = scale * rng.normal(size=(tokens, 2, inner)) / np.sqrt(tokens)
    down = scale * rng.normal(size=(inner, tokens)) / np.sqrt(inner)
    return {"gate_up": jnp.asarray(gate_up, jnp.float32), "down": jnp.asarray(down, jnp.float32)}


def arrays(tokens, batch, width, dtype, seed=1):
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.normal(size=(tokens, batch, width)), dtype) for _ in range(2)]


def out_and_gradients(impl, params, x, g):
    def run(params, x, g):
        y, back = jax.vjp(lambda p, x: mix_tokens(p, x, EPS, impl), params, x)
        return y, back(g)

    return jax.jit(run)(params, x, g)


def differences(found, exact):
    """Norm of the difference by the norm of the exact value, of each array."""

    def one(a, b):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        return np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-30)

    return jax.tree.leaves(jax.tree.map(one, found, exact))


def check(params, x, g, tolerance):
    exact = out_and_gradients("plain", params, x.astype(jnp.float32), g.astype(jnp.float32))
    found = out_and_gradients("triton", params, x, g)
    assert found[0].dtype == x.dtype and found[1][1].dtype == x.dtype
    assert max(differences(found, exact)) <= tolerance


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_output_and_gradients_equal_the_plain_form(dtype):
    check(block(97, 256), *arrays(97, 3, 50, dtype), TOLERANCE[dtype])


@settings(max_examples=3, phases=[Phase.generate])
@given(st.integers(4, 40), st.integers(1, 3), st.integers(1, 20), st.sampled_from([16, 32]))
def test_of_any_shape(tokens, batch, width, inner):
    # Over few tokens the norm's gradient is a difference of nearly equal numbers.
    check(block(tokens, inner), *arrays(tokens, batch, width, "float32"), 1e-4)


@pytest.mark.parametrize("case", ["large", "zero", "one column far out"])
def test_of_inputs_that_try_it(case):
    params, (x, g) = block(17, 32, scale=8.0 if case == "large" else 1.0), arrays(17, 2, 24, "float32")
    if case == "large":  # gates far into both ends of the sigmoid
        x = 30 * x
    elif case == "zero":  # the norm divides by its epsilon alone
        x = jnp.zeros_like(x)
    else:
        x = x.at[:, 0, 3].multiply(1e4)
    # Cancellation in the norm's gradient costs digits where a column is far out or its gates are shut.
    check(params, x, g, 1e-4)


def test_columns_do_not_touch_one_another():
    params, (x, _) = block(17, 32), arrays(17, 2, 24, "float32")
    dx = jax.grad(lambda x: mix_tokens(params, x, EPS, "triton")[:, 1, 5].sum())(x)
    touched = np.abs(np.asarray(dx)).sum(0) > 0
    assert touched[1, 5] and touched.sum() == 1


@pytest.mark.parametrize("sizes", [(8, 1, 1), (2, 2, 2)])
def test_every_device_of_a_mesh_does_its_own_rows(sizes):
    params, (x, g) = block(17, 32), arrays(17, 8, 24, "float32")
    mesh = sharding.make_mesh(*sizes)
    alone = out_and_gradients("triton", params, x, g)
    with sharding.traced_on(mesh, sharding.Rules()):
        shared = out_and_gradients("triton", params, x, g)
    # The weights' gradients are summed over devices in another order.
    assert max(differences(shared, alone)) <= TOLERANCE["float32"]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_lowers_for_a_gpu_that_is_not_here(dtype):
    params, (x, g) = block(97, 512), arrays(97, 4, 512, dtype)
    with target.made_for("gpu"):
        traced = jax.jit(lambda *args: out_and_gradients("triton", *args)).trace(params, x, g)
        text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert "token_mlp_forward" in text and "token_mlp_backward" in text


def test_a_cpu_takes_the_plain_form():
    params, (x, g) = block(17, 32), arrays(17, 2, 24, "bfloat16")
    chosen, plain = (out_and_gradients(impl, params, x, g) for impl in ("auto", "plain"))
    jax.tree.map(np.testing.assert_array_equal, chosen, plain)
