"""A model opened whole: folder or GGUF file, with adapter, quantised, and given back."""

import gc
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from tests.models.test_decoder import LOGITS, folder_of
from trm_jax.errors import InputError
from trm_jax.language import generate, model
from trm_jax.models import decoder, quant

forward = jax.jit(decoder.forward, static_argnums=1)


@pytest.fixture
def file(golden_folder) -> Path:
    return golden_folder / "llm" / "gguf" / "llama_mixed.gguf"


@pytest.fixture
def folder(golden_folder, tmp_path) -> Path:
    """A checkpoint with the tokenizer of its vocabulary."""
    folder = tmp_path / "tiny-llama-3.1"
    shutil.copytree(folder_of("llama31_gqa"), folder)
    for part in (golden_folder / "llm" / "tokenizer_bos").glob("tokenizer*.json"):
        shutil.copy(part, folder)
    return folder


def of_golden(folder: Path) -> dict:
    return dict(np.load(folder / "golden.npz"))


def logits(opened: model.Model, golden: dict, adapter: dict) -> tuple[np.ndarray, np.ndarray]:
    """(ours, golden's) where there is a token."""
    real = golden["attention_mask"] == 1
    found = forward(opened.params, opened.cfg, golden["input_ids"], golden["attention_mask"] - 1)
    return np.asarray(found)[real], adapter["logits"][real]


def test_a_folder(folder):
    opened = model.load(folder)
    assert (opened.name, opened.eos, opened.cfg.dtype) == ("tiny-llama-3.1", (2,), "float32")
    assert opened.words.encode("a")[0] == opened.words.id("bos_token")
    golden = of_golden(folder)
    found, wanted = logits(opened, golden, golden)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=LOGITS)


@pytest.mark.parametrize("name", ["lora_llama_plain", "lora_llama_rs_all"])
def test_with_an_adapter(folder, name):
    """Its numbers are PEFT's, also where embedding and head have one."""
    adapter = folder_of(name)
    found, wanted = logits(model.load(folder, adapter=adapter), of_golden(folder), of_golden(adapter))
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4)  # the README's, for LoRA


def test_quantised(folder):
    opened = model.load(folder, quantise="int8", dtype="bfloat16")
    assert all(quant.is_quantised(opened.params["layers"][name]) for name in quant.LINEARS)
    assert opened.cfg.dtype == "bfloat16" and opened.params["embed"].dtype == "bfloat16"


def test_a_file_of_blocks(file):
    """Kernels that are quantised in the file stay what they are, and are not quantised again."""
    opened = model.load(file)
    assert (opened.name, opened.eos) == ("llama_mixed.gguf", (2,))
    assert (opened.cfg.dtype, opened.cfg.context) == ("float32", 512)
    with pytest.raises(InputError, match="quantised already"):
        model.load(file, quantise="int8")


def test_the_end_of_a_text_is_what_the_files_say(folder):
    """Several tokens in generation_config.json, else config.json's, else the tokenizer's."""
    (folder / "generation_config.json").write_text('{"eos_token_id": [5, 2]}')
    assert model.load(folder).eos == (5, 2)
    (folder / "generation_config.json").unlink()
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"eos_token_id"', '"other"'))
    opened = model.load(folder)
    assert opened.eos == (opened.words.id("eos_token"),)


def test_a_digest_tells_models_apart(folder, tmp_path):
    """The same wherever the files are; another for other weights and another way of loading."""
    one = model.digest(folder)
    shutil.copytree(folder, tmp_path / "elsewhere")
    assert model.digest(tmp_path / "elsewhere") == one
    ways = [{"quantise": "int8"}, {"dtype": "bfloat16"}, {"adapter": folder}, {"tokenizer": folder}]
    assert len({one, *(model.digest(folder, **way) for way in ways)}) == 1 + len(ways)
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert model.digest(folder) != one


def test_the_memory_of_a_model_is_given_back(file):
    """Once the last reference is gone, what lies on the device is what lay there before, also after writing."""
    gc.collect()
    before = {id(x) for x in jax.live_arrays()}
    opened = model.load(file)
    settings = generate.Settings(brief="", max_new_tokens=3)
    batches = generate.answers(opened, generate.read_questions(generate.QUESTIONS)[:1], [], settings, rows=1)
    assert len(list(batches)) == 1
    assert quant.bytes_of(opened.params) > 0 and len(jax.live_arrays()) > len(before)
    del opened, batches
    gc.collect()
    left = [x for x in jax.live_arrays() if id(x) not in before]
    assert not left, [(x.shape, x.dtype) for x in left]


def test_what_cannot_be_opened(tmp_path, folder, golden_folder):
    with pytest.raises(InputError, match="does not exist; name a folder"):
        model.load(tmp_path / "none")
    (tmp_path / "text.gguf").write_text("no model")
    with pytest.raises(InputError, match="no whole GGUF file"):
        model.load(tmp_path / "text.gguf")
    with pytest.raises(InputError, match="has no tokenizer.json"):
        model.load(golden_folder / "llm" / "llama32_sharded")
    with pytest.raises(InputError, match="the tokenizer has 288 tokens, and the model 256"):
        model.load(golden_folder / "llm" / "llama32_sharded", tokenizer=folder)
