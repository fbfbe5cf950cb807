"""Decoders against transformers' numbers, and against themselves: cached, padded, in chunks, on eight devices."""

import dataclasses
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trm_jax import sharding
from trm_jax.evals.decode import Decoder
from trm_jax.language import config, weights
from trm_jax.models import decoder, lora, params, quant

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("llama2_mha", "llama31_gqa", "qwen2_bias", "qwen3_tied", "llama32_sharded", "llama_bf16_file")
LOGITS, LOG_PROBS = 5e-5, 2e-5  # what the golden README calls fair of a float32 implementation


def folder_of(name: str) -> Path:
    """A tiny checkpoint: two are part of the tests, the others lie beside the repository."""
    for root in (ROOT / "tests" / "golden", ROOT.parent / "shared" / "golden"):
        if (root / "llm" / name).is_dir():
            return root / "llm" / name
    pytest.skip(f"{name} is not there")


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    cfg: decoder.Config
    params: dict
    golden: dict

    @property
    def segments(self):
        return self.golden["attention_mask"] - 1

    @property
    def real(self):
        return self.golden["attention_mask"] == 1


@pytest.fixture(scope="module", params=FOLDERS)
def checkpoint(request) -> Checkpoint:
    return read(request.param)


def read(name: str) -> Checkpoint:
    folder = folder_of(name)
    cfg = config.read(folder, dtype="float32")
    assert config.read(folder / "config_4x.json", dtype="float32") == cfg
    return Checkpoint(cfg, weights.load(folder, cfg), dict(np.load(folder / "golden.npz")))


forward = jax.jit(decoder.forward, static_argnames=("cfg", "hidden"))


def test_logits_and_hidden_states_are_transformers(checkpoint):
    """In both spellings of the config, which are one `Config`."""
    golden, real = checkpoint.golden, checkpoint.real
    # A power that is rounded the other way is a unit of the last place, and a blend may double it.
    np.testing.assert_allclose(decoder.inverse_frequencies(checkpoint.cfg), golden["inv_freq"], rtol=2.4e-7)
    np.testing.assert_array_equal(
        np.asarray(decoder.positions_of(checkpoint.segments))[real], golden["position_ids"][real]
    )
    logits, hidden = forward(checkpoint.params, checkpoint.cfg, golden["input_ids"], checkpoint.segments, hidden=True)
    np.testing.assert_allclose(logits[real], golden["logits"][real], rtol=0, atol=LOGITS)
    np.testing.assert_allclose(hidden[:, real], golden["hidden_states"][:, real], rtol=0, atol=LOGITS)
    np.testing.assert_allclose(hidden[-1][real], golden["last_hidden"][real], rtol=0, atol=LOGITS)
    assert np.isfinite(logits).all()  # padding sees itself


def test_greedy_writing_is_transformers(checkpoint):
    """By the loop that all families share; prompts of different lengths, padded further than transformers' were."""
    golden = checkpoint.golden
    prompts = [
        {"inputs": ids[mask == 1]} for ids, mask in zip(golden["input_ids"], golden["attention_mask"], strict=True)
    ]
    write = Decoder(decoder, dataclasses.replace(checkpoint.cfg, prefill=24), rows=2, end=-1)
    sizes = np.array([len(one["inputs"]) for one in prompts])
    (said,) = write(checkpoint.params, prompts.__getitem__, sizes, most=12)
    for one in said:
        np.testing.assert_array_equal(one.tokens, golden["greedy_ids"][one.prompt])
        np.testing.assert_allclose(one.log_probs, golden["greedy_logprobs"][one.prompt], rtol=0, atol=LOG_PROBS)


def interleaved(cfg: decoder.Config, layers: dict) -> dict:
    """q and k with the halves of each head as GGUF files of Llama have them."""

    def of(w):
        heads = w.reshape(*w.shape[:2], -1, 2, cfg.head_dim // 2)
        return jnp.swapaxes(heads, -1, -2).reshape(w.shape)

    names = [name for name in ("q", "k", "q_bias", "k_bias") if name in layers]
    return layers | {name: of(layers[name][:, None])[:, 0] if "bias" in name else of(layers[name]) for name in names}


MISTAKES = {  # the README's name -> what it changes of config and layers
    "rope_theta_1e4": ({"rope_theta": 1e4, "rope_scaling": None}, None),
    "rope_theta_1e6": ({"rope_theta": 1e6}, None),
    "rope_no_scaling": ({"rope_scaling": None}, None),
    "rope_theta_1e6_no_scaling": ({"rope_theta": 1e6, "rope_scaling": None}, None),
    "qk_norm_ignored": ({"qk_norm": False}, None),
    "bias_ignored": ({}, lambda cfg, layers: {name: x for name, x in layers.items() if not name.endswith("_bias")}),
    "qk_rows_still_permuted": ({}, interleaved),
}


def test_mistakes_would_be_seen(checkpoint):
    """Made on purpose, each gives the numbers that it gives in transformers, which are far from the right ones."""
    golden = checkpoint.golden
    names = [name.removeprefix("wrong/") for name in golden if name.startswith("wrong/")]
    assert len(names) >= 2
    for name in names:
        changes, change = MISTAKES[name]
        cfg, tree = dataclasses.replace(checkpoint.cfg, **changes), checkpoint.params
        if change:
            tree = {**tree, "layers": change(cfg, tree["layers"])}
        wrong = np.asarray(forward(tree, cfg, golden["input_ids"], checkpoint.segments))
        np.testing.assert_allclose(wrong[:, -4:], golden[f"wrong/{name}"], rtol=0, atol=LOGITS, err_msg=name)
        assert np.abs(wrong - golden["logits"])[checkpoint.real].max() > 1.1, name  # the README: 1.2 and more


def small(**changes) -> decoder.Config:
    base = {
        "vocab_size": 40,
        "hidden_size": 32,
        "layers": 2,
        "heads": 8,
        "kv_heads": 4,
        "head_dim": 8,
        "inner_size": 48,
    }
    base |= {
        "rope_theta": 1e4,
        "rope_scaling": decoder.Llama3Scaling(8.0, original=32),
        "qkv_bias": True,
        "qk_norm": True,
    }
    return decoder.Config(**{**base, **changes})


def random(cfg: decoder.Config) -> dict:
    """Weights of a size at which every array matters."""
    draw = np.random.default_rng(1)
    return jax.tree.map(
        lambda x: x + 0.15 * draw.normal(size=x.shape).astype(np.float32), decoder.init(jax.random.key(0), cfg)
    )


TOKENS = np.random.default_rng(0).integers(0, 40, (3, 23)).astype(np.int32)


def padded(lengths, size: int) -> dict:
    """The first tokens of the rows, padded in front."""
    batch = {
        "inputs": np.zeros((len(lengths), size), np.int32),
        "segments": np.full((len(lengths), size), -1, np.int32),
    }
    for row, length in enumerate(lengths):
        batch["inputs"][row, size - length :] = TOKENS[row, :length]
        batch["segments"][row, size - length :] = 0
    return batch


@pytest.mark.parametrize("prefill", [0, 1, 5, 8])
def test_writing_is_reading(prefill):
    """Prompts of several lengths, however far padded and however many tokens are read at a time: logits behind each
    further token are those of the row read alone and at once. Sums in another order: 2e-5 of logits of size 3."""
    cfg = small(prefill=prefill)
    tree, lengths = random(cfg), (3, 16, 9)
    wanted = np.asarray(forward(tree, small(), TOKENS))
    assert np.abs(wanted).max() > 1
    begin = jax.jit(partial(decoder.begin, cfg=cfg, room=28))
    extend = jax.jit(partial(decoder.extend, cfg=cfg))
    state = begin(tree, batch=padded(lengths, 21))
    for further in range(6):
        at = [length + further - 1 for length in lengths]
        np.testing.assert_allclose(state["logits"], wanted[np.arange(3), at], rtol=0, atol=2e-5)
        state = extend(tree, state=state, tokens=TOKENS[np.arange(3), np.add(at, 1)][:, None])


def test_several_tokens_at_once_and_other_rows_beside():
    cfg = small()
    tree = random(cfg)
    wanted = np.asarray(forward(tree, cfg, TOKENS))
    alone = decoder.begin(tree, cfg, padded((9,), 9), 23)
    alone = decoder.extend(tree, cfg, alone, TOKENS[:1, 9:16])
    np.testing.assert_allclose(alone["logits"][0], wanted[0, 15], rtol=0, atol=2e-5)
    other = np.stack([TOKENS[0], TOKENS[2]])  # the same row beside another
    np.testing.assert_allclose(forward(tree, cfg, other)[0], wanted[0], rtol=0, atol=2e-5)


def test_packed_is_as_alone():
    """Two sequences in a row, padding between and behind: what each says alone."""
    cfg = small()
    tree = random(cfg)
    wanted = np.asarray(forward(tree, cfg, TOKENS))
    row = np.concatenate([TOKENS[0, :9], [0, 0], TOKENS[1, :10], [0, 0]])[None]
    segments = np.repeat([0, -1, 1, -1], [9, 2, 10, 2])[None]
    packed = np.asarray(forward(tree, cfg, row, segments))[0]
    np.testing.assert_allclose(packed[:9], wanted[0, :9], rtol=0, atol=2e-5)
    np.testing.assert_allclose(packed[11:21], wanted[1, :10], rtol=0, atol=2e-5)


def test_kernels_of_attention_serve_heads_alike():
    """Grouped heads by our GPU kernel, interpreted: 2e-5 as above."""
    tree, batch = random(small()), padded((3, 16, 9), 16)
    dense, flash = (
        np.asarray(forward(tree, small(attention_impl=impl), batch["inputs"], batch["segments"]))
        for impl in ("dense", "flash")
    )
    real = batch["segments"] == 0
    np.testing.assert_allclose(flash[real], dense[real], rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    "mesh",
    [
        {"data": 2, "tensor": 4},
        pytest.param({"fsdp": 8}, marks=pytest.mark.slow),
        pytest.param({"data": 2, "fsdp": 2, "tensor": 2}, marks=pytest.mark.slow),
    ],
)
def test_eight_devices_are_one(mesh):
    """Weights and rows shared out: logits at once and written are those of one device, to sums in another order."""
    cfg = small(prefill=6)
    tree, batch = random(cfg), padded((3, 16, 9), 16)
    batch = {name: np.concatenate([x, x, x[:2]]) for name, x in batch.items()}
    wanted = forward(tree, cfg, batch["inputs"], batch["segments"])
    said = decoder.begin(tree, cfg, batch, 18)
    said = decoder.advance(tree, cfg, said, batch["inputs"][:, -1])

    mesh, rules = sharding.make_mesh(**mesh), sharding.Rules()
    tree = jax.device_put(tree, sharding.shardings(mesh, rules, decoder.specs(cfg)))
    batch = jax.device_put(batch, sharding.batch_sharding(mesh, rules))
    assert mesh.shape["tensor"] == 1 or tree["layers"]["gate"].sharding.shard_shape((2, 32, 48))[2] < 48
    with sharding.traced_on(mesh, rules):
        logits = forward(tree, cfg, batch["inputs"], batch["segments"])
        state = jax.jit(partial(decoder.begin, cfg=cfg, room=18))(tree, batch=batch)
        state = jax.jit(partial(decoder.advance, cfg=cfg))(tree, state=state, tokens=batch["inputs"][:, -1])
    real = np.asarray(batch["segments"]) == 0
    np.testing.assert_allclose(np.asarray(logits)[real], np.asarray(wanted)[real], rtol=0, atol=2e-5)
    np.testing.assert_allclose(state["logits"], said["logits"], rtol=0, atol=2e-5)


def test_layers_that_lie_apart():
    """The same memory and the same numbers, written with a cache, with hidden states and an adapter."""
    cfg = small()
    tree = random(cfg)
    views = decoder.apart(tree)
    first, stack = views["layers"][1]["gate"], tree["layers"]["gate"]
    assert first.unsafe_buffer_pointer() == stack.unsafe_buffer_pointer() + stack.nbytes // 2
    adapter = (params.init(lora.specs(decoder.specs(cfg), lora.Lora(2, 1.0, lora.TARGETS)), jax.random.key(0)), 0.5)
    adapter = (jax.tree.map(lambda x: x + 0.1, adapter[0]), 0.5)

    @jax.jit
    def said(tree):
        state = decoder.advance(tree, cfg, decoder.begin(tree, cfg, padded((3, 16, 9), 16), 18), TOKENS[:, 0])
        return *decoder.forward(tree, cfg, TOKENS, lora=adapter, hidden=True), state["logits"]

    for one, other in zip(said(tree), said(views), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    "kind", ["int8", "int4", "Q4_1", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("int4-min", "Q8_0"))]
)
def test_eight_devices_are_one_with_quantised_weights(kind):
    """Each array of a leaf lies as its kernel: logits behind a prompt and one more token are those of one device."""
    cfg = small(hidden_size=64, layers=1, heads=4, head_dim=64, inner_size=256, qkv_bias=False)
    tree, specs = random(cfg), decoder.specs(cfg)
    kernels = {name: tree["layers"][name] for name in quant.LINEARS}
    if kind in quant.BLOCKS:
        leaves = {name: blocks(kind, kernel) for name, kernel in kernels.items()}
        specs["layers"] |= {name: quant.spec_of(specs["layers"][name], leaf) for name, leaf in leaves.items()}
    else:
        leaves = {name: quant.quantise(kernel, kind) for name, kernel in kernels.items()}
        specs = quant.specs(specs, kind)
    tree["layers"] |= leaves

    @jax.jit
    def said(tree, batch):
        state = decoder.begin(tree, cfg, batch, 18)
        return state["logits"], decoder.advance(tree, cfg, state, batch["inputs"][:, -1])["logits"]

    batch = {name: np.concatenate([x, x[:1]]) for name, x in padded((3, 16, 9), 16).items()}
    wanted = jax.device_get(said(tree, batch))
    mesh, rules = sharding.make_mesh(data=2, tensor=4), sharding.Rules()
    tree = jax.device_put(tree, sharding.shardings(mesh, rules, specs))
    batch = jax.device_put(batch, sharding.batch_sharding(mesh, rules))
    first = jax.tree.leaves(tree["layers"]["down"])[0]
    assert first.addressable_shards[0].data.size == first.size // 4
    with sharding.traced_on(mesh, rules):
        for one, other in zip(said(tree, batch), wanted, strict=True):
            np.testing.assert_allclose(one, other, rtol=0, atol=2e-5)


def blocks(kind: str, kernels):
    """Kernels as a file's blocks."""
    gguf = pytest.importorskip("gguf")
    rows = np.ascontiguousarray(np.swapaxes(np.asarray(kernels), -1, -2))
    return quant.BLOCKS[kind](jnp.asarray(gguf.quantize(rows, gguf.GGMLQuantizationType[kind])))


def test_half_precision_is_near():
    """bfloat16 has 8 bits: 2^-8 of a logit at each of some ten roundings on the way, 4 % of the largest."""
    cfg = small(dtype="bfloat16")
    tree = jax.tree.map(lambda x: x.astype(jnp.bfloat16), random(small()))
    logits = forward(tree, cfg, TOKENS)
    exact = np.asarray(forward(jax.tree.map(lambda x: x.astype(jnp.float32), tree), small(), TOKENS))
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(logits, exact, rtol=0, atol=0.04 * np.abs(exact).max())


LLAMA3_8B = {"vocab_size": 128256, "hidden_size": 4096, "layers": 32, "heads": 32, "kv_heads": 8, "head_dim": 128}
QWEN3_4B = {"vocab_size": 151936, "hidden_size": 2560, "layers": 36, "heads": 32, "kv_heads": 8, "head_dim": 128}
SMOLLM2 = {"vocab_size": 49152, "hidden_size": 576, "layers": 30, "heads": 9, "kv_heads": 3, "head_dim": 64}


@pytest.mark.parametrize(
    ("shape", "count"),
    [
        (SMOLLM2 | {"inner_size": 1536, "tied": True}, 134_515_008),
        (LLAMA3_8B | {"inner_size": 14336}, 8_030_261_248),
        (QWEN3_4B | {"inner_size": 9728, "tied": True, "qk_norm": True}, 4_022_468_096),
    ],
)
def test_parameters_of_published_models(shape, count):
    assert params.count(decoder.specs(decoder.Config(rope_theta=1e5, **shape))) == count


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kv_heads": 3}, "heads 8 are not divisible by kv_heads 3"),
        ({"head_dim": 7}, "rotary positions need an even head_dim; it is 7"),
        ({"rope_scaling": (1.0, 2.0)}, "2 divisors of frequencies for 4 pairs"),
        ({"rope_theta": 0.0}, "rope_theta is 0"),
    ],
)
def test_what_cannot_be_built(changes, message):
    with pytest.raises(ValueError, match=message):
        small(**changes)


def test_scalings_of_frequencies():
    """A factor divides all; divisors each their own, which is how GGUF files say what Llama 3 does."""
    plain = decoder.inverse_frequencies(small(rope_scaling=None))
    np.testing.assert_allclose(decoder.inverse_frequencies(small(rope_scaling=4.0)), plain / 4, rtol=1e-7)
    llama3 = decoder.inverse_frequencies(small())
    divisors = tuple((plain / llama3).tolist())
    np.testing.assert_allclose(decoder.inverse_frequencies(small(rope_scaling=divisors)), llama3, rtol=2e-7)
    assert divisors[0] == 1 and divisors[-1] == pytest.approx(8)
