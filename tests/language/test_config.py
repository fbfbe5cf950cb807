"""config.json: two spellings, and what is refused by its name."""

import dataclasses
import json

import pytest

from trm_jax.errors import InputError
from trm_jax.language import config
from trm_jax.models.decoder import Config, Llama3Scaling

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
SHAPE = {
    "model_type": "llama",
    "vocab_size": 99,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "rms_norm_eps": 1e-5,
}
OLD, NEW = {"rope_theta": 5e5, "rope_scaling": LLAMA3}, {"rope_parameters": {**LLAMA3, "rope_theta": 5e5}}


@pytest.fixture
def read(tmp_path):
    def of(said, **given):
        (tmp_path / "config.json").write_text(json.dumps(said))
        return config.read(tmp_path, **given)

    return of


def test_both_spellings_say_the_same(read):
    cfg = read(SHAPE | OLD)
    assert read(SHAPE | NEW) == read(SHAPE | NEW | OLD) == cfg
    assert (cfg.rope_theta, cfg.rope_scaling) == (5e5, Llama3Scaling(32.0, 1.0, 4.0, 8192))
    assert (cfg.kv_heads, cfg.head_dim, cfg.tied, cfg.dtype) == (4, 8, False, "float32")
    linear = {"rope_theta": 1e4, "rope_scaling": {"type": "linear", "factor": 2}}
    assert read(SHAPE | linear).rope_scaling == 2.0
    assert (
        read(SHAPE | {"rope_theta": 1e4}).rope_scaling
        is read(SHAPE | {"rope_theta": 1e4} | {"rope_scaling": None}).rope_scaling
        is None
    )


def test_what_the_three_kinds_differ_in(read):
    base = SHAPE | {"rope_theta": 1e6, "rope_scaling": None, "head_dim": 16, "num_key_value_heads": 2}
    base |= {"torch_dtype": "bfloat16", "tie_word_embeddings": True, "max_position_embeddings": 4096}
    llama = read(base)
    assert (llama.dtype, llama.tied, llama.context, llama.head_dim, llama.kv_heads) == ("bfloat16", True, 4096, 16, 2)
    same = {"hidden_act": "swish", "partial_rotary_factor": None, "rope_scaling": {"partial_rotary_factor": None}}
    assert read(base | same) == llama
    qwen2 = read(base | {"model_type": "qwen2", "sliding_window": 32768, "use_sliding_window": False})
    assert qwen2 == dataclasses.replace(llama, qkv_bias=True)
    qwen3 = read(base | {"model_type": "qwen3", "layer_types": ["full_attention"] * 2})
    assert qwen3 == dataclasses.replace(llama, qk_norm=True)
    assert read(base, dtype="float16").dtype == "float16"


def test_theta_is_never_guessed(read):
    with pytest.raises(InputError, match=r"config.json: it has no rope_theta, .*; give one: 10000 for Llama 1 and 2"):
        read(SHAPE)
    with pytest.raises(InputError, match="no rope_theta"):
        read(SHAPE | {"rope_scaling": LLAMA3, "rope_parameters": None})
    assert read(SHAPE, rope_theta=1e4).rope_theta == 1e4
    with pytest.raises(InputError, match="its rope_theta is 500000, not 10000; do not give another"):
        read(SHAPE | OLD, rope_theta=1e4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "mixtral"}, 'model_type is "mixtral"; supported are llama, qwen2 and qwen3'),
        ({"model_type": None}, "model_type is null"),
        ({"model_type": "qwen3_moe"}, "qwen3_moe"),
        ({"use_sliding_window": True}, "use_sliding_window true is not supported"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "sliding_attention.* are not supported; only full"),
        ({"layer_types": True}, "layer_types true are not supported"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5 is not supported; only 1 is"),
        ({"rope_parameters": {"rope_theta": 5e5, "partial_rotary_factor": 0.5}}, "partial_rotary_factor 0.5"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantization_config .*gptq.* is not supported"),
        ({"attention_bias": True}, "attention_bias true is not supported; only False is"),
        ({"mlp_bias": True}, "mlp_bias true"),
        ({"hidden_act": "gelu"}, 'hidden_act "gelu" is not supported'),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, '"yarn" is not supported; default, linear'),
        ({"rope_scaling": {"type": "dynamic", "factor": 4.0}}, "dynamic"),
        ({"rope_scaling": {"rope_type": "longrope"}}, "longrope"),
        ({"rope_scaling": {"rope_type": "linear", "type": "dynamic"}}, "contradict each other"),
        ({"rope_scaling": {"rope_type": "linear"}}, "factor is missing"),
        ({"rope_scaling": {**LLAMA3, "high_freq_factor": 0.5}}, "low 1.0 is not below high 0.5"),
        ({"rope_scaling": "llama3"}, "rope_scaling is .*; it should be an object or null"),
        ({"rope_parameters": {"rope_theta": 5e5}}, "rope_parameters and rope_scaling contradict each other"),
        ({"rope_parameters": {**LLAMA3, "rope_theta": 1e4}}, "rope_theta is 10000 and 500000; remove the wrong one"),
        ({"rope_theta": "1e4"}, "rope_theta is .1e4.; it should be a positive number"),
        ({"dtype": "float32", "torch_dtype": "bfloat16"}, "contradict each other"),
        ({"torch_dtype": "float8_e4m3fn"}, "dtype is .float8_e4m3fn.; choose one of"),
        ({"hidden_size": None}, "hidden_size is missing"),
        ({"hidden_size": True}, "hidden_size is true; it should be a positive whole number"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0"),
        ({"num_attention_heads": 5}, "hidden_size 32 is not divisible by num_attention_heads 5"),
        ({"num_key_value_heads": 3}, "heads 4 are not divisible by kv_heads 3"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings is .yes.; it should be true or false"),
    ],
)  # fmt: skip
def test_refused_by_name(read, changes, message):
    with pytest.raises(InputError, match=message) as caught:
        read(SHAPE | OLD | changes)
    assert "config.json: " in str(caught.value) and "\n" not in str(caught.value)


def test_files_that_are_none(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        config.read(tmp_path)
    for text, message in (("{", "cannot be read as JSON"), ("[]", "holds no JSON object")):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(InputError, match=message):
            config.read(tmp_path)


def test_ids_of_generation_win(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"bos_token_id": 1, "eos_token_id": 2}))
    assert config.ids(tmp_path) == config.Ids(1, (2,), None)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [5, 6], "pad_token_id": 0}))
    assert config.ids(tmp_path) == config.Ids(1, (5, 6), 0)
    (tmp_path / "config.json").write_text(json.dumps({"pad_token_id": -1}))  # as Llama 1 has it
    assert config.ids(tmp_path).pad == 0
    (tmp_path / "generation_config.json").unlink()
    assert config.ids(tmp_path) == config.Ids(None, (), None)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": "</s>"}))
    with pytest.raises(InputError, match="eos_token_id is .*; it should be a token's number"):
        config.ids(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"rope_scaling": Llama3Scaling(32.0, 1.0, 4.0, 8192), "tied": True},
        {"rope_scaling": 4.0, "context": 4096, "dtype": "bfloat16"},
        {"qkv_bias": True},
        {"qk_norm": True, "head_dim": 24},
    ],
)
def test_a_config_that_is_written_is_read_back(tmp_path, change):
    shape = {"vocab_size": 64, "hidden_size": 32, "layers": 2, "heads": 4, "kv_heads": 2, "head_dim": 8}
    cfg = Config(**{**shape, "inner_size": 48, "rope_theta": 5e5, "rms_eps": 1e-6, **change})
    ids = config.Ids(1, (2, 3), None)
    config.write(tmp_path, cfg, ids)
    assert config.read(tmp_path) == cfg and config.ids(tmp_path) == ids


def test_rotary_positions_without_a_name_are_not_written(tmp_path):
    cfg = Config(64, 32, 2, 4, 2, 8, 48, rope_theta=5e5, rope_scaling=(1.0, 2.0, 3.0, 4.0))
    with pytest.raises(InputError, match="no place in a config.json"):
        config.write(tmp_path, cfg, config.Ids(None, (2,), None))
