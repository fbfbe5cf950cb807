"""`trm lm plan`: what it says, its exit codes, and wrong input."""

import json
import re

import pytest

from trm_jax.aot import compile as aot


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")  # the command sets it too: this one is taken back


def test_what_does_not_fit_ends_with_1_and_contradicts_the_guide(here):
    result = here("lm", "plan", "llama-3-70b", "--memory", "24", "--quant", "int4")
    assert result.code == 1 and not result.err
    assert "note: the users' guide says that this fits 24 GB; the weights alone are 40.57 GB" in result.out
    assert "does not fit: 45.4 GB of 24 a chip; a40 has room" in result.out


def test_what_fits(here):
    result = here("lm", "plan", "llama-3-8b", "--device", "4090", "--quantise", "int8", "--price", "0.5")
    assert result.code == 0 and "fits: 10.3 GB of 24" in result.out
    assert "8.03 billion parameters, int8, 1 x 2,048 tokens" in result.out and "0.5 dollars an hour" in result.out
    # 1.01 TB/s through 8.30 GB, which is all but the embedding.
    assert "writes at most 122 tokens a second: for a token a chip reads 8.30 GB" in result.out
    assert "1.14 dollars a million" in result.out


def test_training(here):
    result = here("lm", "plan", "qwen3-4b-16-tokens", "--train", "lora", "--context", "512")
    assert result.code == 0 and "adapter" in result.out and "trains " in result.out and "fits: " in result.out


def test_presets_of_test_time_training(here):
    """Their memory and rate are those of the same words to `trm lm plan`; hours are of 400 tasks of 128 texts."""
    plain = "--train lora --rank 256 --targets q,k,v,o,gate,up,down --context 8192 --device h100".split()
    plain = here("lm", "plan", "qwen3-4b-16-tokens", *plain).out
    rate = re.search(r"trains ([\d,]+) tokens", plain)[1]
    result = here("ttt", "plan", "nvarc_4b", "--device", "h100")
    assert result.code == 0 and "nobody has run it here" in result.out
    row = next(line.split() for line in result.out.splitlines() if line.startswith("h100"))
    assert f"fits: {row[2]} GB of {row[3]}" in plain and row[4] == rate
    hours = 400 * 128 * 8192 / int(rate.replace(",", "")) / 3600
    assert [float(one) for one in row[5:]] == pytest.approx([hours, 3.89 * hours], abs=0.01)
    assert "--preset nvarc_4b" in result.out
    listed = here("ttt", "plan").out
    assert all(f"{name}: for " in listed for name in ("marc_8b", "marc_as_run", "nvarc_4b", "smollm2"))
    assert "there are marc_8b" in here("ttt", "plan", "x").err


def test_folders_and_notes(here, golden_folder):
    where = golden_folder / "llm" / "llama32_sharded"
    context = json.loads((where / "config.json").read_text())["max_position_embeddings"]
    result = here("lm", "plan", where, "--context", context + 1, "--rope-theta", 500000)
    assert result.code == 0 and f"note: the model was made for {context:,} tokens" in result.out, result.err
    assert f"next: trm lm generate {where} --rope-theta 500000" in result.out


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("llama-3-9b",), "llama-3-9b is no folder, no .gguf file and no known model. Did you mean llama-3-8b"),
        (("llama-3-8b", "--device", "h101"), "no device 'h101' in the table. Did you mean h100"),
        (("llama-3-8b", "--adapter-dtype", "float32"), "--adapter-dtype is of an adapter; add --train lora"),
        (("llama-3-8b", "--train", "lora", "--rank", "5000"), "rank 5000 is larger than the kernel"),
        (("llama-3-8b", "--train", "lora", "--targets", "q,w"), "lora: targets q, w; choose of q, k"),
        (("llama-3-8b", "--train", "full", "--quantise", "int8"), "quantised weights (int8) are not trained"),
        (("llama-3-8b", "--compile", "--memory", "24", "--device", "v4-24"), "v4-24 is no TPU slice of a known shape"),
        (
            ("llama-3-8b", "--compile", "--device", "v4-8", "--train", "full"),
            "is not compiled; leave out --mesh, --com",
        ),
        (
            ("llama-3-8b", "--device", "v4-8", "--mesh", "tensor=3"),
            "4 chips cannot share the weights 3 ways; 2 would do",
        ),
        (("llama-3-8b", "--mesh", "heads=3"), "'heads=3' is no cut; write tensor=4"),
        (("llama-3-8b", "--mesh", "data=2"), "'data=2' is no cut; write tensor=4"),
        (("absent.gguf",), "absent.gguf: No such file"),
        (("llama-3-8b", "--context", 2**31, "--train", "lora"), "positions are counted in 32 bits"),
        (("llama-3-8b", "--context", "0"), "'0' is not a whole number of at least 1"),
    ],
)
def test_wrong_input(refused, argv, words):
    assert words in refused("lm", "plan", *argv)


def test_a_config_that_the_decoder_refuses(refused, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mixtral"}))
    assert 'model_type is "mixtral"' in refused("lm", "plan", tmp_path)


def test_compiled_for_a_slice(here, monkeypatch):
    """What is shown of a program: bytes at the data sheet's rates; what does not fit ends with 1."""
    found = {**aot.NOTHING, "memory_bytes": {"total": 5e9}, "traffic_bytes": 1.2e9}
    asked = []
    monkeypatch.setattr(
        "trm_jax.aot.decoder.compile_kind", lambda words, kind, *_: asked.append((words, kind)) or found
    )
    monkeypatch.setattr(aot, "versions", lambda: {"libtpu": "0"})
    result = here("lm", "plan", "llama-3-8b", "--device", "v4-8", "--compile", "--context", "64", "--quant", "int8")
    assert result.code == 0, result.err
    assert [kind for _, kind in asked] == ["read a prompt", "write a token"]
    assert asked[0][0] == {
        "model": "llama-3-8b",
        "dtype": None,
        "rope_theta": None,
        "how": "int8",
        "context": 64,
        "rows": 1,
        "tensor": 0,
        "train": None,
        "adapter_dtype": None,
    }
    line = next(line for line in result.out.splitlines() if line.startswith("write a token"))
    assert line.split()[3:] == ["5.000", "1.200", "0.000", "1.00", "1,000"]
    found["overflow_bytes"] = [2, 1]
    result = here("lm", "plan", "llama-3-8b", "--device", "v4-8", "--compile")
    assert result.code == 1 and "note: write a token: it does not fit: 0.0 GB of a chip; --quantise int8" in result.out


def test_an_update_compiled_for_a_gpu(here, monkeypatch):
    """Nobody but the size says that it does not fit."""
    found, asked = {**aot.NOTHING, "memory_bytes": {"total": 23e9}, "traffic_bytes": 2.02e12}, []
    monkeypatch.setattr(
        "trm_jax.aot.decoder.compile_kind", lambda words, kind, *_: asked.append((words, kind)) or found
    )
    given = ("lm", "plan", "smollm2-135m", "--device", "4090", "--train", "lora", "--rank", "8", "--compile")
    monkeypatch.setattr("trm_jax.aot.gpu.there", lambda: False)
    assert "plugin for CUDA (Linux only) is not installed" in here(*given).err
    monkeypatch.setattr("trm_jax.aot.gpu.there", lambda: True)
    result = here(*given, "--adapter-dtype", "float32")
    assert result.code == 0 and "fits, as compiled: 23.0 GB of the 24.0" in result.out, result.err
    assert "XLA_PYTHON_CLIENT_MEM_FRACTION=0.95" in result.out and "2000.00" in result.out
    ((words, kind),) = asked
    assert kind == "an update" and words["train"]["rank"] == 8 and words["adapter_dtype"] == "float32"
    found["memory_bytes"] = {"total": 25e9}
    result = here(*given)
    assert result.code == 1 and "an update: it does not fit: 25.0 GB of a chip; --quantise int8, a lower" in result.out
