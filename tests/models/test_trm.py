"""The model's semantics beyond the golden trajectories: gradient cut, carry, halting, dtypes, bad settings."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trm_jax import compiler
from trm_jax.losses import act_loss
from trm_jax.models import IGNORE, TRMConfig, target, trm
from trm_jax.models import params as P
from trm_jax.models.convert import torch_format
from trm_jax.models.layers import linear, swiglu

B = 4
CFG = TRMConfig(
    vocab_size=6,
    seq_len=5,
    mlp_t=False,
    pos_encodings="rope",
    num_puzzle_ids=4,
    hidden_size=16,
    num_heads=2,
    L_layers=1,
    H_cycles=3,
    L_cycles=2,
    puzzle_emb_ndim=24,
    puzzle_emb_len=2,
    halt_max_steps=4,
    halt_exploration_prob=0.0,
    dtype="float32",
)
MLP_T = dataclasses.replace(CFG, mlp_t=True, pos_encodings="learned")


def make_batch(seed: int, cfg: TRMConfig = CFG) -> dict:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, cfg.vocab_size, (B, cfg.seq_len), dtype=np.int32)
    labels[:, 0] = IGNORE
    inputs = rng.integers(0, cfg.vocab_size, (B, cfg.seq_len), dtype=np.int32)
    return {"inputs": inputs, "labels": labels, "puzzle_ids": rng.integers(0, 4, B, dtype=np.int32)}


def make_params(cfg: TRMConfig = CFG, q_bias: float = 0.0, q_scale: float = 0.0) -> dict:
    """Random parameters of the usual scale, drawn by NumPy (no compilation), with halting logits as asked."""
    rng = np.random.default_rng(0)

    def draw(path, spec):
        fan_in = 1 if "buffers" in str(path[0]) else cfg.hidden_size if len(spec.shape) < 2 else spec.shape[0]
        return jnp.asarray(rng.standard_normal(spec.shape) / fan_in**0.5, spec.dtype)

    params = jax.tree_util.tree_map_with_path(draw, P.abstract(trm.specs(cfg)))
    kernel = q_scale * params["weights"]["q_head"]["kernel"]
    params["weights"]["q_head"] = {"kernel": kernel, "bias": jnp.full(2, q_bias)}
    return params


def one_step(params: dict, cfg: TRMConfig, carry: trm.Carry, batch: dict):
    return jax.jit(trm.step, static_argnums=1)(params, cfg, carry, batch)


def loss_of(params: dict, cfg: TRMConfig, carry: trm.Carry, batch: dict):
    carry, out = trm.step(params, cfg, carry, batch)
    return act_loss(out.logits, out.q_halt, carry.labels)[0] / B


def assert_trees_close(a, b, rtol: float):
    """Each array within `rtol` of its largest magnitude."""
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=0, atol=rtol * np.abs(y).max()), a, b)


@pytest.mark.parametrize("cfg", [CFG, MLP_T], ids=["attention", "mlp_t"])
def test_gradient_is_that_of_every_call_of_the_last_cycle(cfg, reference_loss):
    """Against conftest.py's unrolled model, which takes a copy of the network's weights for every reasoning call.

    Cut, the copies of the first H_cycles - 1 cycles have a gradient of exactly 0, every copy of the last cycle one
    that is not, and their sum is our gradient. Uncut, the first cycles would contribute far more than the tolerance.
    1e-5: two float32 summation orders.
    """
    params, batch = make_params(cfg, q_scale=1.0), make_batch(0)
    ours = jax.jit(jax.grad(lambda p: loss_of(p, cfg, trm.initial_carry(cfg, B), batch)))(params)
    ours = torch_format.export_state_dict(ours, prefix="")

    state = torch_format.export_state_dict(params, prefix="")
    network = {name: array for name, array in state.items() if name.startswith("L_level.")}
    per_cycle = cfg.L_cycles + 1
    copies = [network] * (cfg.H_cycles * per_cycle)

    def gradients(cut: bool):
        def loss(state, copies):
            return reference_loss(state, cfg, batch, calls=copies, cut=cut)[0]

        return jax.jit(jax.grad(loss, argnums=(0, 1)))(state, copies)

    rest, by_call = gradients(cut=True)
    _, uncut = gradients(cut=False)
    early, last = by_call[:-per_cycle], by_call[-per_cycle:]
    assert len(early) == (cfg.H_cycles - 1) * per_cycle and len(last) == per_cycle
    for name in network:
        assert all((call[name] == 0).all() for call in early), name
        assert all(np.abs(call[name]).max() > 0 for call in last), name
        total = np.sum([np.float64(call[name]) for call in last], axis=0)
        np.testing.assert_allclose(ours[name], total, rtol=0, atol=1e-5 * np.abs(total).max(), err_msg=name)
        would_be = np.sum([np.float64(call[name]) for call in uncut], axis=0)
        assert np.abs(would_be - total).max() > 1e-2 * np.abs(total).max(), name
    for name in rest.keys() - network.keys() - {"H_init", "L_init"}:
        scale = np.abs(rest[name]).max()
        np.testing.assert_allclose(ours[name], rest[name], rtol=0, atol=1e-5 * scale, err_msg=name)
        assert scale > 0, name


def test_first_cycles_only_move_the_starting_point():
    """H cycles have the gradient of one cycle from where the H - 1 before it ended: those contribute nothing."""
    cfg = MLP_T
    params, batch = make_params(cfg), make_batch(0)
    carry = trm.refill(params["buffers"], trm.initial_carry(cfg, B), batch)
    rows = params["puzzle_emb"][carry.puzzle_ids]

    def loss(weights, rows, cfg, z_H, z_L):
        _, _, out = trm.forward(weights, rows, cfg, carry.inputs, z_H, z_L)
        return act_loss(out.logits, out.q_halt, carry.labels)[0]

    compiled = jax.jit(jax.grad(loss, argnums=(0, 1)), static_argnums=2)

    def grads(cfg, z_H, z_L):
        return compiled(params["weights"], rows, cfg, z_H, z_L)

    before = dataclasses.replace(cfg, H_cycles=cfg.H_cycles - 1)
    z_H, z_L, _ = jax.jit(trm.forward, static_argnums=2)(
        params["weights"], rows, before, carry.inputs, carry.z_H, carry.z_L
    )
    one = grads(dataclasses.replace(cfg, H_cycles=1), z_H, z_L)
    assert_trees_close(grads(cfg, carry.z_H, carry.z_L), one, 1e-5)
    one_cycle_earlier = grads(dataclasses.replace(cfg, H_cycles=1), carry.z_H, carry.z_L)
    assert np.abs(one[0]["lm_head"] - one_cycle_earlier[0]["lm_head"]).max() > 1e-2 * np.abs(one[0]["lm_head"]).max()


@pytest.mark.parametrize("H_cycles", [1, 2])
def test_no_gradient_reaches_the_carry_or_the_initial_latents(H_cycles):
    cfg = dataclasses.replace(CFG, H_cycles=H_cycles)
    params, batch = make_params(cfg), make_batch(0)
    carry = trm.refill(params["buffers"], trm.initial_carry(cfg, B), batch)
    half = np.arange(B) % 2 == 0  # some rows begin with the initial latents, others go on with the carry's

    def everything(z_H, z_L, buffers):
        start = carry.replace(z_H=z_H, z_L=z_L, halted=half)
        new, out = trm.step({**params, "buffers": buffers}, cfg, start, batch)
        return out.logits.sum() + out.q_halt.sum() + new.z_H.sum() + new.z_L.sum()

    for g in jax.tree.leaves(jax.jit(jax.grad(everything, argnums=(0, 1, 2)))(carry.z_H, carry.z_L, params["buffers"])):
        np.testing.assert_array_equal(g, 0)


def test_outgoing_latents_are_detached():
    params, batch = make_params(), make_batch(0)

    def next_latents(weights):
        carry, _ = trm.step({**params, "weights": weights}, CFG, trm.initial_carry(CFG, B), batch)
        return carry.z_H.sum() + carry.z_L.sum()

    for g in jax.tree.leaves(jax.jit(jax.grad(next_latents))(params["weights"])):
        np.testing.assert_array_equal(g, 0)


def test_rematerialisation_changes_no_gradient():
    """1e-5: recomputed values may be fused, and so rounded, otherwise (measured 1e-6)."""
    cfg = dataclasses.replace(CFG, H_cycles=2)
    params, batch = make_params(cfg), make_batch(0)
    grads = {}
    for remat in ("none", "block"):
        other = dataclasses.replace(cfg, remat=remat)
        grad = jax.grad(lambda p, other=other: loss_of(p, other, trm.initial_carry(other, B), batch))
        grads[remat] = jax.jit(grad)(params)["weights"]
    assert_trees_close(grads["block"], grads["none"], 1e-5)


def test_how_the_cycle_is_unrolled_changes_no_gradient():
    """1e-5, as for rematerialisation. Frozen cycles are unrolled too where loops cost launches."""
    cfg = dataclasses.replace(MLP_T, H_cycles=2)
    params, batch = make_params(cfg), make_batch(0)

    def gradient(unroll):
        other = dataclasses.replace(cfg, unroll=unroll)
        return jax.jit(jax.grad(lambda p: loss_of(p, other, trm.initial_carry(other, B), batch)))

    for platform, chosen, loops in (("cpu", "unroll", 2), ("gpu", "unroll", 1), ("tpu", "scan", 4)):
        with target.made_for(platform):
            lowered = {unroll: gradient(unroll).lower(params).as_text() for unroll in ("auto", chosen)}
        assert lowered["auto"] == lowered[chosen] and lowered["auto"].count("stablehlo.while") == loops
    grads = {unroll: gradient(unroll)(params)["weights"] for unroll in ("scan", "unroll")}
    assert_trees_close(grads["scan"], grads["unroll"], 1e-5)


def test_a_cpu_copies_no_weights_in_loops_and_no_activations_for_their_gradients():
    """XLA:CPU does both if it is let; docs/speed.md has a step before and after."""
    cfg = dataclasses.replace(CFG, H_cycles=2)
    params, batch = make_params(cfg), make_batch(0)
    evaluated = jax.jit(lambda p: loss_of(p, cfg, trm.initial_carry(cfg, B), batch)).lower(params).compile()
    loops = [line for line in evaluated.as_text().splitlines() if "while/body" in line]
    assert loops and not [line for line in loops if " slice(" in line and "mlp" in line]
    kernels = dataclasses.replace(MLP_T, H_cycles=2, mlp_t_impl="triton")  # interpreted, they take cut weights too
    jax.eval_shape(lambda p: loss_of(p, kernels, trm.initial_carry(kernels, B), batch), make_params(kernels))

    def gradient(x, w, g):
        return jax.vjp(lambda w: linear(x, w), w)[1](g)

    lowered = jax.jit(gradient).lower(jnp.ones((4, 6, 24)), jnp.ones((24, 8)), jnp.ones((4, 6, 8)))
    text = lowered.compile(compiler.options()).as_text()
    assert " dot(" in text and " transpose(" not in text and " copy(" not in text


def test_int8_products_of_whole_numbers_are_exact():
    """Rows and columns whose largest magnitude is 127 are their own quantised form."""
    random = np.random.default_rng(0)
    x, w = random.integers(-127, 128, (3, 5, 40)), random.integers(-127, 128, (40, 2, 6))
    x[..., 7], w[3] = 127, -127
    y = linear(jnp.asarray(x, jnp.float32), jnp.asarray(w, jnp.float32), "int8")
    np.testing.assert_array_equal(y, np.einsum("abi,ico->abco", x, w))
    columns = swiglu({"gate_up": jnp.ones((5, 2, 3)), "down": jnp.zeros((3, 5))}, jnp.zeros((5, 4)), 0, "int8")
    np.testing.assert_array_equal(columns, np.zeros((5, 4)), err_msg="a row of zeros has no scale")


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 4), st.integers(1, 70), st.integers(1, 9), st.sampled_from(["int8", "float8"]), st.integers(0, 99)
)
def test_a_product_of_8_bits_is_as_near_as_its_rounding(rows, inner, columns, products, seed):
    """Each operand is off by half a step: 1/254 of the largest of its vector in int8, 1/16 of itself in float8."""
    random = np.random.default_rng(seed)
    x, w = (
        random.normal(size=shape) * np.exp(random.normal(size=shape)) for shape in ((rows, inner), (inner, columns))
    )
    y = linear(jnp.asarray(x, jnp.float32), jnp.asarray(w, jnp.float32), products)
    off = 1 / 254 if products == "int8" else 1 / 16
    largest = np.abs(x).max(1)[:, None] * np.abs(w).max(0)
    assert (np.abs(y - x @ w) <= inner * largest * (2 * off + off**2) + 1e-5 * inner * largest).all()


@pytest.mark.parametrize("shape", [CFG, MLP_T])
@pytest.mark.parametrize("products", ["int8", "float8"])
def test_only_frozen_cycles_round_to_8_bits(shape, products):
    """What the frozen cycles give differs, and the gradient through the last one is that of where they lead."""
    cfg = dataclasses.replace(shape, H_cycles=2)
    rounded = dataclasses.replace(cfg, frozen_products=products)
    params, batch = make_params(cfg), make_batch(0)
    latents, grads = {}, {}
    for name, each in (("exact", cfg), (products, rounded)):
        carry, _ = trm.step(params, each, trm.initial_carry(each, B), batch)
        latents[name] = np.asarray(carry.z_H)
        grads[name] = jax.grad(lambda p, each=each: loss_of(p, each, trm.initial_carry(each, B), batch))(params)
    apart = np.abs(latents[products] - latents["exact"]).mean() / np.abs(latents["exact"]).mean()
    assert 1e-5 < apart < 0.1
    one, other = (np.concatenate([x.ravel() for x in jax.tree.leaves(g["weights"])]) for g in grads.values())
    assert one @ other > 0.9 * np.linalg.norm(one) * np.linalg.norm(other)


@pytest.mark.parametrize("platform", ["gpu", "tpu"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize(("axis", "shape"), [(-1, (5, 3, 7)), (0, (7, 3, 5))])
def test_swiglu_is_the_same_on_every_platform(platform, dtype, axis, shape):
    """float32: sums of at most 22 terms in another order. Half precision: of x's gradient the CPU and the TPU round
    each half's intermediate once, and all round the result once, by up to half of its last bit."""
    random = np.random.default_rng(0)
    x, g = (jnp.asarray(random.normal(size=shape), dtype) for _ in range(2))
    params = {"gate_up": random.normal(size=(7, 2, 11)), "down": random.normal(size=(11, 7))}
    params = jax.tree.map(lambda w: jnp.asarray(w, jnp.float32), params)

    def results(name):
        with target.made_for(name):
            y, back = jax.vjp(lambda p, x: swiglu(p, x, axis), params, x)
            return y, *back(g)

    mine, cpu = results(platform), results("cpu")
    assert jax.tree.map(lambda x: x.dtype, mine) == jax.tree.map(lambda x: x.dtype, cpu)
    bits = jnp.finfo(dtype).eps if dtype != "float32" else 4e-6
    for one, other in zip(jax.tree.leaves(mine), jax.tree.leaves(cpu), strict=True):
        other = np.asarray(other, np.float32)
        np.testing.assert_allclose(np.asarray(one, np.float32), other, rtol=0, atol=bits * np.abs(other).max())


@pytest.mark.parametrize(("dtype", "mlp_t", "near"), [("bfloat16", True, 0.1), ("float16", False, 0.0125)])
def test_half_precision(dtype, mlp_t, near):
    """The carry keeps its dtype, weights and gradients are float32, and the logits are near those in float32.

    How near follows from the mantissa, 8 bits or 11: one step is nine network calls.
    """
    exact = MLP_T if mlp_t else CFG
    cfg = dataclasses.replace(exact, dtype=dtype)
    params, batch = make_params(cfg), make_batch(0)

    def loss(weights, carry, batch):
        carry, out = trm.step({**params, "weights": weights}, cfg, carry, batch)
        return act_loss(out.logits, out.q_halt, carry.labels)[0], (carry, out)

    train = jax.jit(jax.grad(loss, has_aux=True))
    grads, (carry, out) = train(params["weights"], trm.initial_carry(cfg, B), batch)
    _, expected = one_step(params, exact, trm.initial_carry(exact, B), batch)
    scale = np.abs(expected.logits).max()
    assert 0 < np.abs(np.float32(out.logits) - expected.logits).max() < near * scale
    grads, (carry, out) = train(params["weights"], carry, make_batch(1))
    assert carry.z_H.dtype == carry.z_L.dtype == out.logits.dtype == dtype
    assert out.q_halt.dtype == out.q_continue.dtype == jnp.float32
    for g in jax.tree.leaves(grads):
        assert g.dtype == jnp.float32 and np.isfinite(g).all()
    assert train._cache_size() == 1  # nothing that came out differs in type from what went in


def test_refill_takes_new_rows_only_where_halted():
    params, batch = make_params(), make_batch(1)
    rng = np.random.default_rng(0)
    z = rng.standard_normal((2, B, CFG.total_len, CFG.hidden_size)).astype(np.float32)
    halted = np.array([True, False, True, False])
    old = make_batch(0)
    carry = trm.Carry(z[0], z[1], np.array([4, 2, 1, 3], np.int32), halted, *(old[n] for n in old))
    new = trm.refill(params["buffers"], carry, batch)
    np.testing.assert_array_equal(new.steps, [0, 2, 0, 3])
    for name in batch:
        np.testing.assert_array_equal(getattr(new, name)[halted], batch[name][halted])
        np.testing.assert_array_equal(getattr(new, name)[~halted], old[name][~halted])
    for name, before in (("H", z[0]), ("L", z[1])):
        after = getattr(new, f"z_{name}")
        initial = np.broadcast_to(params["buffers"][f"{name}_init"], after.shape)
        np.testing.assert_array_equal(after[halted], initial[halted])
        np.testing.assert_array_equal(after[~halted], before[~halted])


def test_loss_and_answers_belong_to_the_rows_of_the_carry():
    """Rows that go on ignore the incoming batch altogether, labels and puzzle ids included."""
    params = make_params(q_bias=-1.0)  # nothing halts before halt_max_steps
    step = jax.jit(lambda c, b: trm.step(params, CFG, c, b, train=True))
    first, _ = step(trm.initial_carry(CFG, B), make_batch(0))
    assert not first.halted.any()
    kept, out = step(first, make_batch(0))
    other, out_other = step(first, make_batch(1))
    jax.tree.map(np.testing.assert_array_equal, (kept, out), (other, out_other))
    np.testing.assert_array_equal(other.labels, make_batch(0)["labels"])
    right = act_loss(out_other.logits, out_other.q_halt, other.labels)[0]
    from_batch = act_loss(out_other.logits, out_other.q_halt, make_batch(1)["labels"])[0]
    assert abs(right - from_batch) > 1e-2


def run_until(cfg, q_bias, key, steps: int, train: bool = True):
    """Steps at which each of many rows had halted, and the carries, for a constant halting logit."""
    carry = trm.Carry(*(jnp.zeros(10_000, jnp.int32) for _ in range(7)))
    carry = carry.replace(halted=jnp.zeros(10_000, bool))
    q_halt = jnp.full(10_000, q_bias)
    flags = []
    for t in range(steps):
        least = trm.noise(cfg, jax.random.fold_in(key, t), 10_000)["min_steps"] if train else 0
        carry = trm.advance(cfg, carry, carry.z_H, carry.z_L, q_halt, least, train=train)
        flags.append(np.asarray(carry.halted))
    return np.stack(flags)


def test_halting_without_exploration():
    key = jax.random.key(0)
    expected = np.array([False, False, False, True])
    np.testing.assert_array_equal(run_until(CFG, 1.0, key, 4).all(1), True)
    for q in (-1.0, 0.0):  # 0 is not above 0
        np.testing.assert_array_equal(run_until(CFG, q, key, 4), np.tile(expected[:, None], 10_000))


def test_evaluation_ignores_q_and_needs_no_key():
    cfg = dataclasses.replace(CFG, halt_exploration_prob=0.5)
    for q in (-9.0, 9.0):
        flags = run_until(cfg, q, jax.random.key(0), 4, train=False)
        np.testing.assert_array_equal(flags.all(1), [False, False, False, True])
        np.testing.assert_array_equal(flags.any(1), [False, False, False, True])
    one_step(make_params(), cfg, trm.initial_carry(cfg, B), make_batch(0))  # no key


def test_exploration_holds_rows_back_for_a_uniform_number_of_steps():
    """With q always for halting: at step t a row is held with probability p * P(m > t), m uniform on [2, halt_max].

    Bounds of five standard deviations of 10,000 draws.
    """
    cfg = dataclasses.replace(CFG, halt_max_steps=6, halt_exploration_prob=0.4)
    halted = run_until(cfg, 1.0, jax.random.key(0), 6).mean(1)
    expected = [1 - 0.4 * max(0, 6 - max(t, 1)) / 5 for t in range(1, 7)]  # m takes 5 values, 2 to 6
    for got, p in zip(halted, expected, strict=True):
        assert abs(got - p) <= 5 * (p * (1 - p) / 10_000) ** 0.5
    assert halted[5] == 1.0
    # Exploration only delays: it never halts a row whose q is against it.
    assert not run_until(cfg, -1.0, jax.random.key(0), 5).any()


def test_exploration_always_means_two_steps_at_least():
    cfg = dataclasses.replace(CFG, halt_max_steps=2, halt_exploration_prob=1.0)
    np.testing.assert_array_equal(run_until(cfg, 1.0, jax.random.key(1), 2).all(1), [False, True])
    assert not run_until(cfg, 1.0, jax.random.key(1), 1).any()


def test_one_step_at_most_always_halts():
    """With halt_max_steps 1 there is nothing to explore: [2, 1] is empty."""
    cfg = dataclasses.replace(CFG, halt_max_steps=1, halt_exploration_prob=1.0)
    assert run_until(cfg, -9.0, jax.random.key(0), 1).all()
    params = make_params(cfg)
    step = jax.jit(lambda c, b: trm.step(params, cfg, c, b, train=True))
    carry, _ = step(trm.initial_carry(cfg, B), make_batch(0))
    carry, _ = step(carry, make_batch(1))
    np.testing.assert_array_equal(carry.labels, make_batch(1)["labels"])
    np.testing.assert_array_equal(carry.steps, 1)


def test_exploration_is_drawn_per_row_and_by_key():
    cfg = dataclasses.replace(CFG, halt_exploration_prob=0.5)
    one, same, other = (run_until(cfg, 1.0, jax.random.key(k), 1) for k in (0, 0, 1))
    assert 0 < one.mean() < 1
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()


def test_no_puzzle_embedding():
    cfg = dataclasses.replace(CFG, puzzle_emb_ndim=0, puzzle_emb_len=0)
    params = make_params(cfg)
    assert "puzzle_emb" not in params
    carry, out = one_step(params, cfg, trm.initial_carry(cfg, B), make_batch(0))
    assert out.logits.shape == (B, CFG.seq_len, CFG.vocab_size) and carry.z_H.shape == (B, CFG.seq_len, 16)


def test_puzzle_row_fills_the_prefix_and_the_rest_is_zero():
    """A row of 24 numbers makes the first token and half of the second; everything is scaled by sqrt(D)."""
    params, batch = make_params(), make_batch(0)
    rows = params["puzzle_emb"][batch["puzzle_ids"]]
    emb = np.asarray(trm.embed(params["weights"], rows, CFG, batch["inputs"]))
    prefix = emb[:, :2].reshape(B, 32)
    np.testing.assert_allclose(prefix[:, :24], 4 * rows, rtol=1e-6)
    np.testing.assert_array_equal(prefix[:, 24:], 0)
    np.testing.assert_allclose(emb[:, 2:], 4 * params["weights"]["embed_tokens"][batch["inputs"]], rtol=1e-6)


def test_positions_matter_where_they_are_chosen():
    """Without positions, attention treats equal tokens equally wherever they stand; with them it does not."""
    batch = make_batch(0) | {"inputs": np.array([[1, 2, 3, 1, 1]] * B, np.int32)}
    for positions in ("none", "rope", "learned"):
        cfg = dataclasses.replace(CFG, pos_encodings=positions)
        _, out = one_step(make_params(cfg), cfg, trm.initial_carry(cfg, B), batch)
        apart = np.abs(out.logits[:, 0] - out.logits[:, 3]).max()
        assert apart < 1e-5 if positions == "none" else apart > 1e-3


def test_flops_grow_as_the_recursion_does():
    """Against a count by hand of one network call of the smallest model."""
    cfg = dataclasses.replace(CFG, H_cycles=1, L_cycles=1, L_layers=1)
    T, D, inner = cfg.total_len, cfg.hidden_size, 256
    block = 2 * T * D * 3 * D + 2 * T * D * D + 4 * T * T * D + 2 * T * D * 2 * inner + 2 * T * inner * D
    head = 2 * cfg.seq_len * D * cfg.vocab_size + 4 * D
    assert trm.matmul_flops(cfg) == (2 * block + head, 3 * (2 * block + head))
    deep = dataclasses.replace(cfg, H_cycles=3)
    assert trm.matmul_flops(deep) == (6 * block + head, 6 * block + head + 2 * (2 * block + head))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dtype": "float64"}, "dtype is 'float64'; choose one of float32, bfloat16, float16"),
        ({"pos_encodings": "alibi"}, "pos_encodings is 'alibi'"),
        ({"remat": "all"}, "remat is 'all'; choose one of auto, none, block"),
        ({"unroll": "some"}, "unroll is 'some'; choose one of auto, scan, unroll"),
        ({"attention_impl": "flash9"}, "attention_impl is 'flash9'"),
        ({"L_cycles": 0}, "L_cycles is 0; it must be at least 1"),
        ({"halt_max_steps": -1}, "halt_max_steps is -1"),
        ({"halt_exploration_prob": 1.5}, r"halt_exploration_prob is 1.5; it must be in \[0, 1\]"),
        ({"num_heads": 3}, "hidden_size 16 is not divisible by num_heads 3"),
        ({"hidden_size": 18, "num_heads": 6}, "rotary positions need an even head size"),
        ({"puzzle_emb_ndim": 33}, "puzzle_emb_ndim 33 does not fit into puzzle_emb_len 2 tokens of 16"),
        ({"puzzle_emb_ndim": 0}, "puzzle_emb_ndim is 0 while puzzle_emb_len is 2"),
        ({"puzzle_emb_len": -1}, "must not be negative"),
        ({"frozen_products": "int4"}, "frozen_products is 'int4'; choose one of exact, int8, float8"),
        ({"frozen_products": "int8", "H_cycles": 1}, "frozen_products is int8, and with H_cycles 1 no cycle is frozen"),
    ],
)
def test_settings_that_cannot_be_built(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CFG, **changes)


def test_heads_are_not_asked_of_an_mlp():
    assert dataclasses.replace(MLP_T, num_heads=3, pos_encodings="none").num_heads == 3


def test_gradients_of_the_token_table_are_summed_in_float32():
    """Forty thousand bfloat16 terms for eleven rows: added up in bfloat16, their sum would be off by some per cent."""
    cfg = TRMConfig(vocab_size=11, seq_len=81, hidden_size=64, num_heads=2, puzzle_emb_ndim=0, puzzle_emb_len=0)
    weights = trm.init(jax.random.key(0), cfg)["weights"]
    inputs = jax.random.randint(jax.random.key(1), (512, 81), 0, 11)
    pull = jax.random.normal(jax.random.key(2), (512, 81, 64)).astype(jnp.bfloat16).astype(jnp.float32)

    def gradient(dtype):
        like = dataclasses.replace(cfg, dtype=dtype)

        def pulled(table):
            x = trm.embed({**weights, "embed_tokens": table}, jnp.zeros((512, 0)), like, inputs)
            return jnp.sum(x.astype(jnp.float32) * pull)

        return jax.grad(pulled)(weights["embed_tokens"])

    half, full = gradient("bfloat16"), gradient("float32")
    # The factor sqrt(64) is a power of two, so the terms are the same; only the order of the sums may differ.
    np.testing.assert_allclose(half, full, rtol=0, atol=1e-5 * np.abs(full).max())
