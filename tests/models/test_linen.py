"""The linen adapter is the pure functions under another name."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from trm_jax.losses import act_loss
from trm_jax.models import TRMConfig, params, trm
from trm_jax.models.linen import TRM, to_params, to_variables

B = 4
CFG = TRMConfig(
    vocab_size=5,
    seq_len=6,
    mlp_t=False,
    pos_encodings="rope",
    num_puzzle_ids=3,
    hidden_size=16,
    num_heads=2,
    L_layers=1,
    H_cycles=2,
    L_cycles=2,
    puzzle_emb_ndim=16,
    puzzle_emb_len=1,
    halt_max_steps=4,
    halt_exploration_prob=0.5,
    dtype="float32",
)


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, CFG.vocab_size, (2, B, CFG.seq_len), dtype=np.int32)
    return {"inputs": tokens[0], "labels": tokens[1], "puzzle_ids": np.array([0, 2, 2, 1], np.int32)}


@pytest.fixture(scope="module")
def variables(batch):
    model = TRM(CFG)
    return jax.jit(model.init)(jax.random.key(0), model.initial_carry(B), batch)


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_variables_are_what_the_specs_declare(variables):
    specs = trm.specs(CFG)
    assert set(variables) == {"params", "buffers", "puzzle_emb"}
    declared = params.abstract(specs)
    found = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), to_params(variables))
    assert jax.tree.structure(found) == jax.tree.structure(declared)
    assert jax.tree.leaves(found) == jax.tree.leaves(declared)
    assert_same(to_params(to_variables(to_params(variables))), to_params(variables))


def test_initial_values_are_drawn_as_declared(variables):
    mlp = variables["params"]["layers"]["0"]["mlp"]
    assert float(jnp.std(mlp["gate_up"])) == pytest.approx(CFG.hidden_size**-0.5, rel=0.05)
    np.testing.assert_array_equal(variables["params"]["q_head"]["bias"], [-5.0, -5.0])
    assert not np.array_equal(variables["buffers"]["H_init"], variables["buffers"]["L_init"])
    attn = variables["params"]["layers"]["0"]["attn"]
    assert not np.array_equal(attn["qkv"][:, 0], attn["out"])


@pytest.mark.parametrize("compiled", [False, True])
def test_evaluation_equals_the_pure_step(variables, batch, compiled):
    model, carry = TRM(CFG), trm.initial_carry(CFG, B)
    wrap = jax.jit if compiled else lambda f: f
    ours = wrap(lambda c, b: model.apply(variables, c, b))
    pure = wrap(lambda c, b: trm.step(to_params(variables), CFG, c, b))
    for _ in range(2):
        expected = pure(carry, batch)
        assert_same(ours(carry, batch), expected)
        carry = expected[0]


def test_training_explores_by_the_halt_stream(variables, batch):
    ready = {**variables, "params": {**variables["params"]}}
    ready["params"]["q_head"] = {
        **variables["params"]["q_head"],
        "bias": jnp.array([5.0, 5.0]),
    }  # halt at once
    model, carry = TRM(CFG), trm.initial_carry(CFG, B)
    train = jax.jit(lambda key: model.apply(ready, carry, batch, train=True, rngs={"halt": key})[0].halted)
    seen = np.stack([train(jax.random.key(seed)) for seed in range(20)])
    assert 0 < seen.mean() < 1  # held back by exploration alone, in about half of the rows
    np.testing.assert_array_equal(train(jax.random.key(3)), seen[3])


def test_gradients_equal_the_pure_ones(variables, batch):
    model, carry = TRM(CFG), trm.initial_carry(CFG, B)

    def loss(step, weights):
        new, out = step({**variables, "params": weights})
        return act_loss(out.logits, out.q_halt, new.labels)[0]

    ours = jax.jit(jax.grad(lambda w: loss(lambda v: model.apply(v, carry, batch), w)))(variables["params"])
    pure = jax.jit(jax.grad(lambda w: loss(lambda v: trm.step(to_params(v), CFG, carry, batch), w)))(
        variables["params"]
    )
    assert_same(ours, pure)
    assert all(np.abs(g).max() > 0 for g in jax.tree.leaves(ours["layers"]))


class Thinker(nn.Module):
    """A larger module: several steps in a scan, and a head of its own."""

    cfg: TRMConfig

    def setup(self):
        self.trm = TRM(self.cfg)
        self.head = nn.Dense(1)

    def __call__(self, batch):
        carry, out = self.trm(self.trm.initial_carry(B), batch)
        carry, _ = jax.lax.scan(lambda c, _: (self.trm(c, batch)[0], None), carry, length=2)
        return carry, self.head(carry.z_H[:, 0].astype(jnp.float32))


def test_inside_a_larger_module_and_a_scan(batch):
    model = Thinker(CFG)
    variables = jax.jit(model.init)(jax.random.key(1), batch)
    assert set(variables["params"]) == {"trm", "head"}
    carry, answer = jax.jit(model.apply)(variables, batch)
    inner = {name: tree["trm"] for name, tree in variables.items()}

    expected = trm.initial_carry(CFG, B)
    for _ in range(3):
        expected, _ = trm.step(to_params(inner), CFG, expected, batch)
    np.testing.assert_array_equal(carry.steps, 3)
    # Compiled as a whole instead of piece by piece: rounding, grown through 18 network calls (measured 1.2e-5).
    np.testing.assert_allclose(carry.z_H, expected.z_H, rtol=0, atol=1e-4)
    assert answer.shape == (B, 1)
    grads = jax.jit(jax.grad(lambda v: model.apply(v, batch)[1].sum()))(variables)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
