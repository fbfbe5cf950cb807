"""GGUF files: numbers, blocks, tokenizers and faults."""

import dataclasses
import json
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trm_jax import sharding
from trm_jax.errors import InputError
from trm_jax.language import gguf
from trm_jax.language import tokenizer as T
from trm_jax.models import decoder, quant
from trm_jax.models.params import is_spec

library = pytest.importorskip("gguf")
pytest.importorskip("tokenizers")
FILES = {"llama": "tokenizer_bos", "qwen2": "tokenizer_chatml", "qwen3": "tokenizer_chatml"}
LOGITS, LOG_PROBS = 5e-5, 2e-5  # what the golden README calls fair of a float32 implementation
forward = jax.jit(decoder.forward, static_argnames="cfg")


@pytest.fixture(scope="module")
def files(golden_folder) -> Path:
    return golden_folder / "llm" / "gguf"


@pytest.fixture(scope="module", params=FILES)
def arch(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def path(files, arch) -> Path:
    return files / f"{arch}_mixed.gguf"


@pytest.fixture(scope="module")
def loaded(path):
    return gguf.load(path)


@pytest.fixture(scope="module")
def llama(files):
    """(path, keys, tensors)"""
    path = files / "llama_mixed.gguf"
    return path, *gguf.read(path)


def scored(golden, cfg, params):
    """Logits [2, T + 11, V] of the prompts and of what the golden numbers answer."""
    tokens = np.concatenate([golden["input_ids"], golden["greedy_ids"][:, :-1]], 1)
    segments = np.pad(golden["attention_mask"], ((0, 0), (0, 11)), constant_values=1) - 1
    return np.asarray(forward(params, cfg, tokens.astype(np.int32), segments.astype(np.int32)))


def test_numbers_are_those_of_the_plain_weights(path, loaded):
    """Six types in a file, some kept as blocks; Llama's q and k are stored with halves of heads interleaved."""
    golden, (cfg, params, _) = np.load(path.with_suffix(".npz")), loaded
    logits, size = scored(golden, cfg, params), golden["input_ids"].shape[1]
    real = golden["attention_mask"] == 1
    np.testing.assert_allclose(logits[:, :size][real], golden["logits"][real], rtol=0, atol=LOGITS)
    np.testing.assert_array_equal(logits[:, size - 1 :].argmax(-1), golden["greedy_ids"])
    said = np.take_along_axis(jax.nn.log_softmax(logits[:, size - 1 :]), golden["greedy_ids"][..., None], -1)[..., 0]
    np.testing.assert_allclose(said, golden["greedy_logprobs"], rtol=0, atol=LOG_PROBS)


def test_without_its_frequencies_a_file_is_wrong(files):
    cfg, params, _ = gguf.load(files / "llama_mixed.gguf")
    golden = np.load(files / "llama_mixed.npz")
    last = slice(golden["input_ids"].shape[1] - 4, golden["input_ids"].shape[1])
    logits = scored(golden, dataclasses.replace(cfg, rope_scaling=None), params)[:, last]
    np.testing.assert_allclose(logits, golden["wrong/rope_freqs_ignored"], rtol=0, atol=LOGITS)
    assert np.abs(logits - golden["logits"][:, last]).max() > 1


def test_kept_blocks_are_the_plain_weights(path, loaded):
    """Bit for bit, also where rows of blocks were moved; the embedding is always plain."""
    (cfg, kept, _), (_, plain, _) = loaded, gguf.load(path, keep_blocks=False)
    leaves = {name: leaf for name, leaf in kept["layers"].items() if quant.is_quantised(leaf)}
    assert len(leaves) >= 5 and {"q"} <= leaves.keys()
    numbers = jax.jit(lambda leaves: {name: quant.dequantise(leaf) for name, leaf in leaves.items()})(leaves)
    for name, kernel in numbers.items():
        np.testing.assert_array_equal(kernel, plain["layers"][name])
    specs = decoder.specs(cfg)
    assert jax.tree.map(jnp.shape, plain) == jax.tree.map(lambda spec: spec.shape, specs, is_leaf=is_spec)
    assert quant.bytes_of(kept) < quant.bytes_of(plain)


def test_devices_share_a_file(path, loaded):
    """Blocks and plain arrays on a mesh are those of one device, bit for bit."""
    place = partial(sharding.shardings, sharding.make_mesh(data=4, fsdp=2), sharding.Rules())
    cfg, shared, _ = gguf.load(path, place=place)
    places = place(gguf.specs(path, cfg, gguf.read(path)[1]))
    for one, other, lies in zip(*map(jax.tree.leaves, (shared, loaded[1], places)), strict=True):
        assert one.sharding == lies
        np.testing.assert_array_equal(one, other)
    assert any(
        one.addressable_shards[0].data.size < one.size for one in jax.tree.leaves(shared) if one.dtype == "uint8"
    )


def test_devices_cut_between_blocks(files):
    """Three blocks of 18 bytes: two devices could halve the bytes."""
    with pytest.raises(
        InputError, match=r"layers/down/raw \[2, 64, 54\] cannot be shared by 2 devices .* blocks of 18"
    ):
        mesh = sharding.make_mesh(data=4, tensor=2)
        gguf.load(files / "llama_mixed.gguf", place=partial(sharding.shardings, mesh, sharding.Rules()))


def test_weights_are_cast_while_they_are_read(path):
    said = []
    cfg, params, _ = gguf.load(path, dtype="bfloat16", keep_blocks=False, progress=lambda *at: said.append(at))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("bfloat16")} and cfg.dtype == "bfloat16"
    assert said == sorted(said) and said[-1][0] == said[-1][1] and len(said) == len(jax.tree.leaves(params))


@pytest.mark.parametrize("kind", gguf.TYPES)
def test_every_type_is_read(files, tmp_path, kind):
    """Rows of 512 of each type, bit for bit, through a file with one layer; two layers of two types become plain."""
    blocks = np.load(files.parent / "gguf_blocks.npz")
    raw, values = blocks[f"{kind}/raw"], blocks[f"{kind}/values"]
    writer = library.GGUFWriter(tmp_path / "model.gguf", "llama")
    for add, number in (
        (writer.add_block_count, 2),
        (writer.add_embedding_length, 512),
        (writer.add_feed_forward_length, 3),
        (writer.add_head_count, 1),
        (writer.add_key_length, 2),
        (writer.add_rope_freq_base, 1e4),
        (writer.add_layer_norm_rms_eps, 1e-5),
    ):
        add(number)
    kinds = library.GGMLQuantizationType
    plain = {"attn_q": (2, 512), "attn_k": (2, 512), "attn_v": (2, 512), "attn_output": (512, 2), "ffn_down": (512, 3)}
    for layer in range(2):
        for name, shape in {**plain, "attn_norm": (512,), "ffn_norm": (512,)}.items():
            writer.add_tensor(f"blk.{layer}.{name}.weight", np.ones(shape, np.float32))
        writer.add_tensor(f"blk.{layer}.ffn_gate.weight", raw, raw_dtype=kinds[kind])
        other = (raw, kind) if layer else (blocks["Q8_0/raw"], "Q8_0")
        writer.add_tensor(f"blk.{layer}.ffn_up.weight", other[0], raw_dtype=kinds[other[1]])
    writer.add_tensor("output_norm.weight", np.ones(512, np.float32))
    writer.add_tensor("token_embd.weight", raw, raw_dtype=kinds[kind])
    for write in (
        writer.write_header_to_file,
        writer.write_kv_data_to_file,
        writer.write_tensors_to_file,
        writer.close,
    ):
        write()
    fields, tensors = gguf.read(tmp_path / "model.gguf")
    cfg = gguf.config("model.gguf", fields, tensors)
    assert (cfg.vocab_size, cfg.kv_heads, cfg.head_dim, cfg.tied) == (3, 1, 2, True)
    params = gguf.weights("model.gguf", cfg, fields, tensors)
    gate, up = params["layers"]["gate"], params["layers"]["up"]
    assert isinstance(gate, quant.BLOCKS.get(kind, jax.Array))
    gate = quant.dequantise(gate) if quant.is_quantised(gate) else gate
    np.testing.assert_array_equal(gate, np.stack([values.T] * 2))
    up = quant.dequantise(up) if kind == "Q8_0" else up
    np.testing.assert_array_equal(up, np.stack([blocks["Q8_0/values"].T, values.T]))
    np.testing.assert_array_equal(params["embed"], values)


def without(tensors: dict, *names: str, **more) -> dict:
    return {name: tensor for name, tensor in tensors.items() if name not in names} | more


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: without(t, "blk.1.ffn_up.weight"), "tensors missing blk.1.ffn_up.weight; take another file"),
        (lambda t: without(t, "token_embd.weight"), "tensors missing token_embd.weight"),
        (
            lambda t: {name: tensor for name, tensor in t.items() if not name.startswith("blk.1.")},
            "tensors missing blk.1.attn_norm.weight, blk.1.[a-z_.]*, blk.1.[a-z_.]* and 6 more;",
        ),
        (lambda t: without(t, odd=t["output_norm.weight"]), "tensors of no use here odd;"),
        (
            lambda t: t | {"blk.0.attn_k.weight": t["blk.0.attn_q.weight"]},
            r"of a wrong shape blk.0.attn_k.weight \[64, 64\] instead of \[32, 64\];",
        ),
        (
            lambda t: (
                t
                | {"output_norm.weight": t["output_norm.weight"]._replace(tensor_type=library.GGMLQuantizationType.I8)}
            ),
            "of a type besides F32, .*Q6_K output_norm.weight I8;",
        ),
    ],
)
def test_tensors_at_fault_are_named(llama, change, message):
    path, fields, tensors = llama
    tensors = change(tensors)
    with pytest.raises(InputError, match=message):
        gguf.weights(path, gguf.config(path, fields, tensors), fields, tensors)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"general.architecture": "gemma3"}, "architecture 'gemma3'; what is read are llama, qwen2, qwen3"),
        ({"split.count": 3}, "is one part of 3; merge them"),
        ({"llama.expert_count": 8}, "mixture of experts"),
        ({"llama.attention.sliding_window": 4096}, "sliding window"),
        ({"llama.rope.scaling.type": "yarn"}, "llama.rope.scaling.type is 'yarn'"),
        ({"llama.rope.freq_base": None}, r"lacks llama.rope.freq_base; give it as rope_theta \(10000 for"),
        ({"llama.embedding_length": None}, "lacks the key llama.embedding_length"),
        ({"llama.attention.head_count": [4, 2]}, "llama.attention.head_count differs from layer to layer"),
        ({"llama.attention.head_count": 0}, "heads is 0; it must be at least 1"),
        ({"llama.rope.freq_base": "x"}, "llama.rope.freq_base is 'x', which is no number"),
        ({"llama.attention.key_length": 32}, "turns 16 of 32 numbers of a head"),
        ({"llama.attention.head_count_kv": 3}, "heads 4 are not divisible by kv_heads 3"),
    ],
)
def test_what_is_not_supported_is_named(llama, changes, message):
    path, fields, tensors = llama
    fields = {name: value for name, value in {**fields, **changes}.items() if value is not None}
    with pytest.raises(InputError, match=message):
        gguf.config(path, fields, tensors)


def test_rotary_settings(llama):
    path, fields, tensors = llama
    untold = {name: value for name, value in fields.items() if name != "llama.rope.freq_base"}
    assert gguf.config(path, untold, tensors, rope_theta=1e4).rope_theta == 1e4
    with pytest.raises(InputError, match="its llama.rope.freq_base is 500000, not 10000; do not give another"):
        gguf.config(path, fields, tensors, rope_theta=1e4)
    linear = {**fields, "llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}
    assert gguf.config(path, linear, without(tensors, "rope_freqs.weight")).rope_scaling == 4.0
    both, alone = (gguf.config(path, keys, tensors).rope_scaling for keys in (linear, fields))
    np.testing.assert_allclose(both, 4 * np.array(alone), rtol=1e-6)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (0, "is no whole GGUF file"),
        (3, "is no whole GGUF file"),
        (100, "is no whole GGUF file"),
        (9000, "is no whole GGUF file"),
        (60000, r"it ends at byte 60000, and blk\.[a-z0-9_.]*weight reaches to \d+; fetch it again"),
        (-1, r"and output.weight reaches to 108704; fetch it again"),
    ],
)
def test_a_file_that_is_cut_short(files, tmp_path, size, message):
    path = tmp_path / "model.gguf"
    path.write_bytes((files / "llama_mixed.gguf").read_bytes()[:size])
    with pytest.raises(InputError, match=message) as error:
        gguf.load(path)
    assert "\n" not in str(error.value)


def test_what_is_no_file(tmp_path):
    with pytest.raises(InputError, match="model.gguf: No such file"):
        gguf.load(tmp_path / "model.gguf")
    with pytest.raises(InputError, match="Is a directory"):
        gguf.load(tmp_path)
    (tmp_path / "model.gguf").write_bytes(bytes(4096))
    with pytest.raises(InputError, match="GGUF magic invalid"):
        gguf.load(tmp_path / "model.gguf")


@pytest.fixture(scope="module")
def original(golden_folder, arch) -> T.Tokenizer:
    """The tokenizer that a file was made of."""
    return T.load(golden_folder / "llm" / FILES[arch])


@given(text=st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("<|im_end|></s> \n09'"), max_size=40))
def test_the_embedded_tokenizer_is_the_folders(loaded, original, text):
    embedded = loaded[2]
    for options in ({}, {"special": False}, {"literal": True}):
        ids = embedded.encode(text, **options)
        assert ids == original.encode(text, **options)
        assert embedded.decode(ids) == original.decode(ids)


def test_the_embedded_tokenizer_on_golden_texts(golden_folder, arch, loaded, original):
    golden = json.loads((golden_folder / "llm" / FILES[arch] / "golden.json").read_text())
    for case in golden["encode"]:
        assert loaded[2].encode(case["text"]) == case["ids_with_special"]
    assert loaded[2].templates == original.templates
    assert [loaded[2].id(f"{name}_token") for name in ("eos", "pad")] == [
        original.id(f"{name}_token") for name in ("eos", "pad")
    ]


@pytest.mark.parametrize(
    ("cut", "pieces"),
    [
        ("smollm", "it 's Ġ 1 2 3 4 ĠĠ 5 Ċ Ċ x"),
        ("gpt-2", "it 's Ġ1234 Ġ Ġ5 Ċ Ċ x"),
        ("llama-bpe", "it 's Ġ 123 4 Ġ Ġ 5 ĊĊ x"),
        ("qwen2", "it 's Ġ 1 2 3 4 Ġ Ġ 5 ĊĊ x"),
    ],
)
def test_where_a_text_is_cut(llama, cut, pieces):
    """By hand from the rules of each; a GPT-2 cut joins a blank to what follows, unless each digit stands alone."""
    path, fields, _ = llama
    backend = gguf.embedded_tokenizer(path, {**fields, "tokenizer.ggml.pre": cut}).backend
    assert [piece for piece, _ in backend.pre_tokenizer.pre_tokenize_str("it's 1234  5\n\nx")] == pieces.split()


def test_kinds_of_tokens_and_what_is_put_around_a_text(llama):
    path, fields, _ = llama
    ggml = "tokenizer.ggml."
    fields = {
        **fields,
        ggml + "tokens": [*fields[ggml + "tokens"], "<think>", "<unused>", "zqz"],
        ggml + "token_type": [*fields[ggml + "token_type"], 4, 5, 1],
    }
    tokenizer = gguf.embedded_tokenizer(path, fields)
    assert tokenizer.encode("<think>")[1:] == [288] and tokenizer.decode([288, 2]) == "<think>"
    assert "<think>" not in tokenizer.special and len(tokenizer.encode("<unused>")) > 2
    assert tokenizer.encode("zqz") == [1, 290]  # a whole word of llama-bpe needs no merges
    del fields[ggml + "add_bos_token"]
    assert gguf.embedded_tokenizer(path, fields).encode("a")[0] == 1
    fields |= {ggml + "pre": "gpt-2", ggml + "add_eos_token": True}
    tokenizer = gguf.embedded_tokenizer(path, fields)
    assert tokenizer.encode("a")[-1] == 2 and 1 not in tokenizer.encode("a") and 290 not in tokenizer.encode("zqz")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "llama"}, "tokenizer.ggml.model is 'llama', and what is read is gpt2; give the tokenizer"),
        ({"pre": "tekken"}, "tokenizer.ggml.pre is 'tekken', and what is read is smollm, llama-bpe, qwen2, gpt-2"),
        ({"pre": None}, "tokenizer.ggml.pre is None"),
        ({"merges": None}, "lacks tokenizer.ggml.merges"),
        ({"merges": ["q zz"]}, "the merges do not fit the tokens"),
        ({"merges": ["qzz"]}, "the merges do not fit the tokens"),
        ({"tokens": ["a", "b", "a"], "merges": [], "token_type": [1, 1, 1]}, "3 tokens, 2 different; 3 types"),
        ({"merges": [1]}, "the merges do not fit the tokens"),
        ({"eos_token_id": 288}, "eos_token lie beyond the 288 tokens"),
        ({"eos_token_id": -1}, "eos_token lie beyond the 288 tokens"),
    ],
)
def test_tokenizers_that_are_not_read(llama, changes, message):
    path, fields, _ = llama
    fields = {**fields, **{f"tokenizer.ggml.{name}": value for name, value in changes.items()}}
    with pytest.raises(InputError, match=message) as error:
        gguf.embedded_tokenizer(path, {name: value for name, value in fields.items() if value is not None})
    assert "\n" not in str(error.value)


def test_another_tokenizer_may_take_its_place(files, golden_folder):
    given = T.load(golden_folder / "llm" / "tokenizer_chatml")
    assert gguf.load(files / "llama_mixed.gguf", tokenizer=given)[2] is given
    with pytest.raises(InputError, match="288 tokens, but token_embd.weight has 280 rows"):
        gguf.load(files / "qwen2_mixed.gguf", tokenizer=T.load(golden_folder / "llm" / "tokenizer_bos"))
