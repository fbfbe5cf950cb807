"""The ARC transformer against its author's code: logits, losses, gradients; what sees what."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trm_jax.losses import IGNORE, token_cross_entropy
from trm_jax.models import arc_transformer, params, target
from trm_jax.models.convert.arc_transformer import export_state_dict, import_state_dict
from trm_jax.tasks.pairs import tokens as tokenised


def config(said: dict, tokens: int, **changes) -> arc_transformer.Config:
    return arc_transformer.Config(
        vocab_size=said["vocab"],
        seq_len=tokens,
        num_puzzle_ids=said["n_tasks"],
        hidden_size=said["d_model"],
        num_heads=said["n_heads"],
        layers=said["n_layers"],
        ff_size=said["d_ff"],
        **{"dropout": 0.0, "attention_dropout": 0.0, "dtype": "float32", "attention_impl": "dense", **changes},
    )


def batch_of(golden, which: str = "output") -> dict:
    """The five packed sequences as one row; the weights make the loss a mean over the targets."""
    starts, tokens = golden["cu_seqlens"], golden["input_ids"].astype(np.int32)
    last = np.isin(np.arange(len(tokens)), starts[1:] - 1)
    following = np.roll(tokens, -1)
    targets = golden["is_output_target"] if which == "output" else ~last
    labels = np.where(targets, following, IGNORE)
    segments = golden["segment_ids"].astype(np.int32)
    return {
        "inputs": tokens[None],
        "labels": labels[None].astype(np.int32),
        "weights": np.full((1, len(tokens)), 1 / targets.sum(), np.float32),
        "segments": segments[None],
        "places": np.pad(golden["positions"].astype(np.int32), ((0, 0), (0, 1)))[None],
        "puzzle_ids": golden["task_ids"][segments][None].astype(np.int32),
        "dihedrals": golden["dihedral_ids"][segments][None].astype(np.int32),
    }


def loss_of(weights, cfg, batch):
    return arc_transformer.loss({"weights": weights}, cfg, (), batch, (), "softmax")[0]


@pytest.fixture(params=["forward", "forward_head64"])
def golden(request, golden_folder):
    return np.load(golden_folder / "arc_transformer" / f"{request.param}.npz")


def made(golden) -> tuple[dict, dict]:
    said = json.loads(str(golden["config"]))
    return said, import_state_dict({name[5:]: golden[name] for name in golden.files if name.startswith("init/")})


def test_logits_losses_and_gradients_are_the_authors(golden):
    """float32 everywhere: 1e-5 of the largest value is the README's generous bound."""
    said, weights = made(golden)
    batch = batch_of(golden)
    cfg = config(said, batch["inputs"].shape[1])
    logits = np.asarray(arc_transformer.forward(weights, cfg, batch))[0]
    np.testing.assert_allclose(logits, golden["logits"], atol=1e-5 * np.abs(golden["logits"]).max())
    output, grads = jax.value_and_grad(loss_of)(weights, cfg, batch)
    np.testing.assert_allclose(output, golden["loss_output"], rtol=1e-5)
    whole, grads_all = jax.value_and_grad(loss_of)(weights, cfg, batch_of(golden, "all"))
    np.testing.assert_allclose(whole, golden["loss_all"], rtol=1e-5)
    per_token = np.asarray(token_cross_entropy(logits[None], batch_of(golden, "all")["labels"], "softmax"))[0]
    np.testing.assert_allclose(per_token, golden["token_loss"], atol=1e-5 * golden["token_loss"].max())
    for name, grad in export_state_dict(grads).items():
        if f"grad/{name}" in golden.files:
            np.testing.assert_allclose(grad, golden[f"grad/{name}"], atol=1e-5 * np.abs(golden[f"grad/{name}"]).max())
        else:
            sums = golden[f"grad_rowsum/{name}"]
            # A sum of 128 entries, each as exact as the largest.
            np.testing.assert_allclose(np.asarray(grad).sum(-1), sums, atol=1e-5 * 128**0.5 * np.abs(grad).max())
            np.testing.assert_allclose(np.linalg.norm(grad), golden[f"grad_norm/{name}"], rtol=1e-5)
    for name, grad in export_state_dict(grads_all).items():
        if f"grad_all_norm/{name}" in golden.files:
            np.testing.assert_allclose(np.linalg.norm(grad), golden[f"grad_all_norm/{name}"], rtol=2e-5)


@pytest.mark.parametrize("remat", ["none", "block"])
def test_packed_is_as_alone(golden_folder, remat):
    """Each sequence in a row of its own, padded in front and behind, says the same: 1e-6 of the largest logit."""
    golden = np.load(golden_folder / "arc_transformer" / "forward.npz")
    said, weights = made(golden)
    packed, starts = batch_of(golden), golden["cu_seqlens"]
    size = 8 + max(np.diff(starts))
    cfg = config(said, size, remat=remat)
    together = np.asarray(arc_transformer.forward(weights, cfg, packed))[0]
    rows = {name: np.zeros((5, size, *x.shape[2:]), x.dtype) for name, x in packed.items()}
    rows["segments"][:], rows["labels"][:] = -1, IGNORE
    for i, (first, end) in enumerate(zip(starts, starts[1:], strict=False)):
        for name, x in packed.items():
            rows[name][i, 4 : 4 + end - first] = x[0, first:end]
    apart = np.asarray(arc_transformer.forward(weights, cfg, rows))
    for i, (first, end) in enumerate(zip(starts, starts[1:], strict=False)):
        np.testing.assert_allclose(apart[i, 4 : 4 + end - first], together[first:end], atol=1e-5)
    np.testing.assert_allclose(loss_of(weights, cfg, rows), loss_of(weights, cfg, packed), rtol=1e-6)
    grads = [jax.grad(loss_of)(weights, cfg, batch) for batch in (rows, packed)]
    for one, other in zip(*map(jax.tree.leaves, grads), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5 * np.abs(other).max())


def test_what_a_token_sees(golden_folder):
    """By gradient: a logit depends on the tokens of its own sequence up to its own, and on no other."""
    golden = np.load(golden_folder / "arc_transformer" / "forward.npz")
    said, weights = made(golden)
    batch = batch_of(golden)
    cfg = config(said, batch["inputs"].shape[1])
    at = int(golden["cu_seqlens"][2]) + 9  # in the third sequence

    def logit(x):
        embedded = {**weights, "token_embedding": x}
        return arc_transformer.forward(embedded, cfg, {**batch, "inputs": np.arange(x.shape[0])[None]})[0, at].sum()

    seen = np.abs(np.asarray(jax.grad(logit)(jnp.take(weights["token_embedding"], batch["inputs"][0], axis=0)))).sum(-1)
    places = np.arange(len(seen))
    np.testing.assert_array_equal(seen > 0, (places >= golden["cu_seqlens"][2]) & (places <= at))


def small(**changes) -> arc_transformer.Config:
    base = {"vocab_size": 14, "seq_len": 32, "num_puzzle_ids": 3, "hidden_size": 24, "num_heads": 2, "layers": 2}
    base |= {"ff_size": 32, "dtype": "float32", "dropout": 0.0, "attention_dropout": 0.0, "attention_impl": "dense"}
    return arc_transformer.Config(**{**base, **changes})


def random_batch(rows: int = 2, size: int = 32) -> dict:
    draw = np.random.default_rng(0)
    tokens = draw.integers(0, 14, (rows, size)).astype(np.int32)
    return {
        "inputs": tokens,
        "labels": np.roll(tokens, -1, 1),
        "weights": np.full((rows, size), 1 / size, np.float32),
        "segments": np.zeros((rows, size), np.int32),
        "places": np.broadcast_to(np.arange(size)[:, None] % 7, (rows, size, 4)).astype(np.int32),
        "puzzle_ids": draw.integers(0, 3, (rows, size)).astype(np.int32),
        "dihedrals": draw.integers(0, 8, (rows, size)).astype(np.int32),
    }


@pytest.mark.parametrize(
    ("changes", "unused"),
    [
        ({"positions": "none"}, "places"),
        ({"task_row": False}, "puzzle_ids"),
        ({"dihedral_row": False}, "dihedrals"),
    ],
)
def test_what_an_ablation_leaves_out_changes_nothing(changes, unused):
    cfg, batch = small(**changes), random_batch()
    weights = arc_transformer.init(jax.random.key(0), cfg)["weights"]
    other = {**batch, unused: np.zeros_like(batch[unused])}
    np.testing.assert_array_equal(*(arc_transformer.forward(weights, cfg, b) for b in (batch, other)))
    cfg = small()
    weights = arc_transformer.init(jax.random.key(0), cfg)["weights"]
    assert (arc_transformer.forward(weights, cfg, batch) != arc_transformer.forward(weights, cfg, other)).any()


@pytest.mark.parametrize("positions", ["rope1d", "learned"])
def test_other_positions(positions):
    """1D positions go by the number in the sequence; column, row and part mean nothing to them."""
    cfg, batch = small(positions=positions), random_batch()
    weights = arc_transformer.init(jax.random.key(0), cfg)["weights"]
    moved = batch["places"].copy()
    moved[..., :3] = 5
    same = arc_transformer.forward(weights, cfg, {**batch, "places": moved})
    np.testing.assert_array_equal(same, arc_transformer.forward(weights, cfg, batch))
    moved[..., 3] = np.arange(32)
    assert (arc_transformer.forward(weights, cfg, {**batch, "places": moved}) != same).any()


def test_pope_is_its_definition():
    """Scores are sums of softplus(q) softplus(k) cos(difference of places times frequency, plus the learned phase)."""
    cfg = config(
        {"vocab": 14, "n_tasks": 2, "d_model": 18, "n_heads": 2, "n_layers": 1, "d_ff": 8}, 16, positions="pope3d"
    )
    rng = np.random.default_rng(0)
    q, k, v = rng.normal(size=(3, 1, 5, 2, 9))
    places, phase = rng.integers(0, 9, (1, 5, 4)), rng.normal(size=(2, 9))
    turns = arc_transformer.position_turns(cfg, jnp.asarray(places))
    q2, k2, v2 = arc_transformer._placed(
        cfg, *map(jnp.float32, (q, k, v)), turns, {"phase": jnp.float32(phase.ravel())}
    )
    frequencies = 10_000.0 ** -(np.arange(3) / 3)
    angles = np.concatenate([places[0, :, axis, None] * frequencies for axis in range(3)], -1)
    between = angles[:, None] - angles[None, :]
    plus = lambda x: np.log1p(np.exp(x))  # noqa: E731
    for head in range(2):
        wanted = np.einsum("qc,kc,qkc->qk", plus(q[0, :, head]), plus(k[0, :, head]), np.cos(between - phase[head]))
        found = np.asarray(q2[0, :, head] @ k2[0, :, head].T) * 18**-0.5
        np.testing.assert_allclose(found, wanted * 9**-0.5, atol=1e-5)  # float32
    np.testing.assert_array_equal(v2[..., :9], np.float32(v))


@pytest.mark.parametrize("positions", ["rope3d", "pope3d", "rope1d", "learned", "none"])
def test_writing_is_reading(positions):
    """The state behind each token of an answer foretells what the whole sequence, read at once, foretells there."""
    said = {"vocab": 14, "n_tasks": 2, "d_model": 48, "n_heads": 2, "n_layers": 2, "d_ff": 32}
    cfg = config(said, 64, positions=positions)
    weights = jax.tree.map(lambda x: x + 0.3, arc_transformer.init(jax.random.key(0), cfg))
    rng = np.random.default_rng(1)
    tokens, places = tokenised.encode(rng.integers(0, 9, (2, 3)), rng.integers(0, 9, (3, 2)))
    batch = {"inputs": tokens[None], "places": places[None], "segments": np.zeros_like(tokens)[None]}
    batch |= {"puzzle_ids": np.ones_like(tokens)[None], "dihedrals": np.full_like(tokens, 3)[None]}
    wanted = np.asarray(arc_transformer.read(weights, cfg, batch))[0]
    for begun in (10, 13):  # behind the separator, and in the middle of the output
        state = arc_transformer.begin(weights, cfg, {name: x[:, :begun] for name, x in batch.items()}, len(tokens))
        for at in range(begun, len(tokens)):
            np.testing.assert_allclose(state["logits"][0], wanted[at - 1], atol=2e-5, err_msg=f"{begun}, {at}")
            state = arc_transformer.advance(weights, cfg, state, tokens[None, at])


def test_dropout_is_each_rows_own_and_right_in_the_mean():
    """A row's masks do not depend on the others; the mean over draws comes near the output without dropout."""
    cfg, batch = small(dropout=0.1, attention_dropout=0.1, layers=1), random_batch()
    weights = arc_transformer.init(jax.random.key(0), cfg)["weights"]
    keys = arc_transformer.noise(cfg, jax.random.key(1), 2)
    both = arc_transformer.forward(weights, cfg, batch, keys)
    alone = arc_transformer.forward(weights, cfg, {n: x[1:] for n, x in batch.items()}, keys[1:])
    np.testing.assert_allclose(both[1:], alone, atol=1e-6)
    assert (both != arc_transformer.forward(weights, cfg, batch)).any()
    assert arc_transformer.noise(small(), jax.random.key(1), 2) == ()
    dropped = arc_transformer._drop(jnp.ones((400, 50)), arc_transformer.noise(cfg, jax.random.key(2), 400), 3, 0.1)
    # 20,000 draws of variance 0.1 / 0.9: four standard errors.
    assert abs(float(dropped.mean()) - 1) < 4 * (0.1 / 0.9 / 20_000) ** 0.5
    assert set(np.unique(dropped)) == {0.0, np.float32(1 / 0.9)}


def test_a_kernel_drops_what_dense_drops():
    """Loss and gradients of a step with dropout: 1e-5 of the largest, as for the author's."""
    batch, keys = random_batch(), arc_transformer.noise(small(dropout=0.1), jax.random.key(1), 2)
    weights = arc_transformer.init(jax.random.key(0), small())["weights"]

    def of(impl):
        cfg = small(dropout=0.1, attention_dropout=0.3, attention_impl=impl)
        return jax.value_and_grad(lambda w: arc_transformer.loss({"weights": w}, cfg, (), batch, keys, "softmax")[0])(
            weights
        )

    for one, other in zip(*(jax.tree.leaves(of(impl)) for impl in ("flash", "dense")), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5 * np.abs(other).max())


def test_layers_and_rows_drop_for_themselves(monkeypatch):
    """A key for each row of each layer, none twice; none where nothing is to be dropped."""
    cfg, batch, given = small(attention_dropout=0.1), random_batch(), []

    def attend(q, k, v, *, keys, **_):
        given.append(keys)
        return v

    monkeypatch.setattr(arc_transformer, "attention", attend)
    weights = arc_transformer.init(jax.random.key(0), cfg)["weights"]
    with jax.disable_jit():  # a scan is then a loop over arrays that have values
        arc_transformer.forward(weights, cfg, batch, arc_transformer.noise(cfg, jax.random.key(1), 2))
        assert len(np.unique(np.concatenate(given), axis=0)) == 2 * cfg.layers
        arc_transformer.forward(weights, cfg, batch)
    assert given[cfg.layers :] == [None] * cfg.layers


@pytest.mark.parametrize(("platform", "materialised"), [("gpu", False), ("tpu", True), ("cpu", True)])
def test_memory_of_the_scores_where_no_kernel_drops(platform, materialised):
    cfg = small(attention_dropout=0.1, attention_impl="auto", dtype="bfloat16", seq_len=512)
    with target.made_for(platform, 8.0 if platform == "gpu" else 0.0):
        least, auto, most = (
            arc_transformer.activation_bytes(dataclasses.replace(cfg, attention_impl=impl), 4)
            for impl in ("flash", "auto", "dense")
        )
    assert least < most and auto == (most if materialised else least)


def test_parameters_of_the_published_model():
    cfg = arc_transformer.Config(vocab_size=14, seq_len=2048, num_puzzle_ids=1307)
    weights = arc_transformer.specs(cfg)["weights"]
    assert params.count(weights) == 76_597_248
    assert params.count(weights["layers"]) == 75_565_056
    kinds = {}
    for spec in jax.tree.leaves(weights, is_leaf=params.is_spec):
        kinds[spec.kind, spec.decay] = kinds.get((spec.kind, spec.decay), 0) + params.count([spec])
    assert kinds == {
        ("matrix", 1.0): 56_623_104, ("matrix", 0.1): 18_874_368, ("head", 1.0): 10_752,
        ("embedding", 0.1): 10_752 + 6_144, ("id_embedding", 0.1): 1_003_776, ("vector", 0.0): 68_352,
    }  # fmt: skip


def test_the_first_loss_is_that_of_guessing():
    """Published: 2.8 to 3.9 by seed; ln 14 is 2.64."""
    cfg, batch = dataclasses.replace(small(), hidden_size=96, num_heads=4, ff_size=384), random_batch(4)
    weights = arc_transformer.init(jax.random.key(0), cfg)["weights"]
    batch["weights"][:] = 1 / batch["weights"].size
    assert 2.6 < float(loss_of(weights, cfg, batch)) < 4.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_heads": 5}, "hidden_size 24 is not divisible by num_heads 5"),
        ({"num_heads": 8}, "rotary positions need an even head size"),
        ({"num_heads": 6}, "3D positions need three pairs a head"),
        ({"dropout": 1.0}, "dropout"),
    ],
)
def test_what_cannot_be_built(changes, message):
    with pytest.raises(ValueError, match=message):
        small(**changes)
