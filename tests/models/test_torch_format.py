"""Official state dicts: there and back bit for bit, every error named, settings read from the arrays."""

import dataclasses
import sys

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import assume, given, settings

from trm_jax.errors import InputError
from trm_jax.models import TRMConfig, trm
from trm_jax.models import params as P
from trm_jax.models.convert import torch_format


def with_bits(rng, shape, dtype=np.float32) -> np.ndarray:
    """Normal values with a negative zero, a denormal and a huge number among them."""
    array = rng.standard_normal(shape).astype(np.float32)
    array.flat[:3] = np.float32([-0.0, 1e-45, min(3e38, float(jnp.finfo(dtype).max))])[: array.size]
    return array.astype(dtype)


def official(cfg: TRMConfig, seed: int = 0, prefix: str = "model.inner.") -> dict[str, np.ndarray]:
    """A state dict of the official layout, written from the specification and not from the code under test."""
    rng = np.random.default_rng(seed)
    D = cfg.hidden_size

    def inner(width):
        return -(-round(cfg.expansion * width * 2 / 3) // 256) * 256

    shapes = {
        "embed_tokens.embedding_weight": (cfg.vocab_size, D),
        "lm_head.weight": (cfg.vocab_size, D),
        "q_head.weight": (2, D),
        "q_head.bias": (2,),
        "H_init": (D,),
        "L_init": (D,),
    }
    if cfg.puzzle_emb_ndim:
        shapes["puzzle_emb.weights"] = (cfg.num_puzzle_ids, cfg.puzzle_emb_ndim)
    if cfg.pos_encodings == "learned":
        shapes["embed_pos.embedding_weight"] = (cfg.total_len, D)
    for i in range(cfg.L_layers):
        layer = f"L_level.layers.{i}"
        if cfg.mlp_t:
            T = cfg.total_len
            shapes[f"{layer}.mlp_t.gate_up_proj.weight"] = (2 * inner(T), T)
            shapes[f"{layer}.mlp_t.down_proj.weight"] = (T, inner(T))
        else:
            shapes[f"{layer}.self_attn.qkv_proj.weight"] = (3 * D, D)
            shapes[f"{layer}.self_attn.o_proj.weight"] = (D, D)
        shapes[f"{layer}.mlp.gate_up_proj.weight"] = (2 * inner(D), D)
        shapes[f"{layer}.mlp.down_proj.weight"] = (D, inner(D))
    fixed = ml_dtypes.bfloat16 if cfg.dtype == "bfloat16" else np.dtype(cfg.dtype)
    return {
        prefix + name: with_bits(rng, shape, fixed if name.endswith("_init") else np.float32)
        for name, shape in shapes.items()
    }


def assert_identical(a: dict, b: dict) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype and a[name].shape == b[name].shape, name
        assert a[name].tobytes() == b[name].tobytes(), name


SMALL = TRMConfig(
    vocab_size=5, seq_len=4, hidden_size=8, num_heads=2, num_puzzle_ids=3, puzzle_emb_ndim=8, puzzle_emb_len=2
)


@st.composite
def configs(draw) -> TRMConfig:
    mlp_t = draw(st.booleans())
    heads = draw(st.sampled_from([1, 2]))
    hidden = 4 * heads * draw(st.integers(1, 6))
    emb_len = draw(st.integers(0, 3))
    return TRMConfig(
        vocab_size=draw(st.integers(1, 12)),
        seq_len=draw(st.integers(1, 12)),
        num_puzzle_ids=draw(st.integers(1, 5)) if emb_len else 1,
        hidden_size=hidden,
        num_heads=heads,
        L_layers=draw(st.integers(1, 12)),
        expansion=draw(st.sampled_from([1.0, 4.0, 20.0])),
        mlp_t=mlp_t,
        pos_encodings=draw(st.sampled_from(["learned", "none"] if mlp_t else ["rope", "learned", "none"])),
        puzzle_emb_ndim=draw(st.integers(1, emb_len * hidden)) if emb_len else 0,
        puzzle_emb_len=emb_len,
        dtype=draw(st.sampled_from(["float32", "bfloat16", "float16"])),
    )


@settings(max_examples=40)
@given(configs(), st.sampled_from(["model.inner.", "_orig_mod.model.inner.", ""]), st.booleans())
def test_import_then_export_is_the_identity(cfg, prefix, on_device):
    given = official(cfg, prefix=prefix)
    assert torch_format.unwrap(given)[1] == prefix
    params = torch_format.import_state_dict(given, cfg)
    if on_device:
        params = jax.tree.map(jnp.asarray, params)
    assert_identical(torch_format.export_state_dict(params, prefix), given)
    expected = P.abstract(trm.specs(cfg))
    assert jax.tree.map(lambda x: (x.shape, x.dtype), params) == jax.tree.map(lambda x: (x.shape, x.dtype), expected)
    leaves = {P.path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
    gate_up = np.asarray(leaves["weights/layers/0/mlp/gate_up"]).reshape(cfg.hidden_size, 2, -1)
    halves = np.split(given[f"{prefix}L_level.layers.0.mlp.gate_up_proj.weight"], 2)
    np.testing.assert_array_equal(gate_up, np.stack([half.T for half in halves], 1))


@settings(max_examples=40)
@given(configs())
def test_settings_are_read_from_the_arrays(cfg):
    given = official(cfg)
    # What leaves no trace has to be told; everything else starts out wrong.
    traceless = ("num_heads", "puzzle_emb_len", "H_cycles", "L_cycles")
    told = {name: getattr(cfg, name) for name in traceless}
    if not cfg.puzzle_emb_len:
        told |= {"puzzle_emb_len": 1}
    if not cfg.mlp_t and cfg.pos_encodings != "learned":
        told |= {"seq_len": cfg.seq_len, "pos_encodings": cfg.pos_encodings}
        assume(cfg.puzzle_emb_len)  # else the prefix cannot be told from the puzzle
    wrong = TRMConfig(
        **{"vocab_size": 99, "seq_len": 99, "hidden_size": 96, "puzzle_emb_ndim": 1, "L_layers": 5, **told}
    )
    found = torch_format.infer_config(given, wrong)
    widths = {"expansion": cfg.expansion}  # widths are rounded up to 256, so several expansions fit
    assert dataclasses.replace(found, **widths) == dataclasses.replace(
        cfg, **widths, halt_max_steps=found.halt_max_steps
    )
    assert_identical(torch_format.export_state_dict(torch_format.import_state_dict(given, found)), given)


def test_every_problem_is_named_at_once():
    given = official(SMALL)
    del given["model.inner.q_head.bias"], given["model.inner.L_level.layers.1.mlp.down_proj.weight"]
    given["model.inner.extra.weight"] = np.zeros(3, np.float32)
    given["model.inner.lm_head.weight"] = given["model.inner.lm_head.weight"].T
    given["model.inner.L_init"][1] = np.nan
    with pytest.raises(InputError) as error:
        torch_format.import_state_dict(given, SMALL)
    message = str(error.value)
    for part in (
        "L_init holds values that are not finite",
        "missing entry q_head.bias",
        "missing entry L_level.layers.1.mlp.down_proj.weight",
        "unknown entry extra.weight",
        "lm_head.weight has shape (8, 5), the model has (5, 8)",
    ):
        assert part in message
    assert "\n" not in message


def test_of_many_problems_some_are_named_and_the_rest_counted():
    given = official(SMALL) | {f"model.inner.extra{i}": np.zeros(3, np.float32) for i in range(20)}
    with pytest.raises(InputError, match=r"unknown entry extra0; .*; and 12 more$"):
        torch_format.import_state_dict(given, SMALL)


@pytest.mark.parametrize(
    ("loaded", "keys"),
    [
        ({"layer.weight": np.zeros((2, 2))}, "layer.weight"),
        ({"model": {"layer.weight": np.zeros((2, 2))}, "epoch": 3}, "model, epoch"),
        ({}, "nothing"),
    ],
)
def test_a_dict_of_something_else_is_refused(loaded, keys):
    for attempt in (torch_format.unwrap, lambda it: torch_format.infer_config(it, SMALL)):
        with pytest.raises(InputError, match=f"not an official TRM state dict: .*; there are {keys}$"):
            attempt(loaded)


WRAPPERS = ["", "model.inner.", "module.", "_orig_mod.", "module._orig_mod.model.inner.", "_orig_mod.module.inner."]


@pytest.mark.parametrize("prefix", WRAPPERS)
@pytest.mark.parametrize("keys", [(), ("model",), ("state_dict",), ("model_state_dict",), ("ema",), ("ema", "shadow")])
def test_checkpoints_as_training_programs_write_them(prefix, keys):
    bare = official(SMALL, prefix="")
    loaded = {prefix + name: array for name, array in bare.items()}
    for key in reversed(keys):
        optimizer = {"state": {0: {"exp_avg": np.zeros(3)}}, "param_groups": [{"lr": 0.1}]}
        loaded = {"step": 7, "rng": np.zeros(4, np.uint8), key: loaded, "optimizer": optimizer, "args": None}
    found, place = torch_format.unwrap(loaded)
    assert_identical(found, bare)
    assert place == "".join(f"{key}." for key in keys) + prefix
    assert torch_format.infer_config(loaded, SMALL) == SMALL
    exported = torch_format.export_state_dict(torch_format.import_state_dict(loaded, SMALL), place)
    assert_identical(exported, {place + name: array for name, array in bare.items()})


@pytest.mark.parametrize("flat", [False, True])
def test_which_of_several_state_dicts_must_be_told(flat):
    """In dicts, or as .safetensors files, which have none, hold them."""
    one, other = official(SMALL, seed=1), official(SMALL, seed=2, prefix="_orig_mod.model.inner.")
    loaded = {"model": one, "ema": other, "step": 3}
    if flat:
        loaded = {f"{key}.{name}": array for key in ("model", "ema") for name, array in loaded[key].items()}
    for key in ("", "weights", "em"):
        with pytest.raises(
            InputError, match=r"^there are state dicts under model\.\S*, ema\.\S*: choose one with --key"
        ):
            torch_format.unwrap(loaded, key)
    for key, expected in (("model", one), ("ema", other)):
        found, place = torch_format.unwrap(loaded, key)
        assert_identical({f"{place}{name}".removeprefix(f"{key}."): array for name, array in found.items()}, expected)


def test_entries_beside_the_known_ones_are_not_left_out_silently():
    given = official(SMALL) | {"model.second_head.weight": np.zeros((2, 2), np.float32)}
    with pytest.raises(InputError, match="unknown entry model.second_head.weight"):
        torch_format.import_state_dict({"model": given}, SMALL)


def test_an_imported_precision_other_than_the_models_is_kept_exactly():
    """A model in float32 takes bfloat16 initial latents without rounding: every bfloat16 is a float32."""
    given = official(dataclasses.replace(SMALL, dtype="bfloat16"))
    params = torch_format.import_state_dict(given, dataclasses.replace(SMALL, dtype="float32"))
    assert params["buffers"]["H_init"].dtype == np.float32
    np.testing.assert_array_equal(params["buffers"]["H_init"], given["model.inner.H_init"].astype(np.float32))


@pytest.mark.parametrize("ending", [".safetensors", ".pt"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_files_there_and_back(tmp_path, ending, dtype):
    if ending == ".pt":
        pytest.importorskip("torch")
    cfg = dataclasses.replace(SMALL, dtype=dtype)
    given = official(cfg, prefix="_orig_mod.model.inner.")
    path = tmp_path / f"model{ending}"
    torch_format.write(path, given)
    assert_identical(torch_format.read(path), given)
    params = torch_format.import_state_dict(torch_format.read(path), cfg)
    torch_format.write(path, torch_format.export_state_dict(params, torch_format.unwrap(given)[1]))
    assert_identical(torch_format.read(path), given)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]  # no half-written file stays


def test_a_checkpoint_that_torch_wrote(tmp_path):
    torch = pytest.importorskip("torch")
    given = official(SMALL)
    path = tmp_path / "step_100"  # as the official code names them: no ending
    tensors = {name: torch.from_numpy(array.astype(np.float32)) for name, array in given.items()}
    tensors = {n: t.to(torch.bfloat16) if n.endswith("_init") else t for n, t in tensors.items()}
    parameters = {n: torch.nn.Parameter(t) if t.ndim == 2 else t for n, t in tensors.items()}
    torch.save(parameters, path)
    assert_identical(torch_format.read(path), given)
    torch.save({"step": 3, "model": parameters}, path)
    assert_identical(torch_format.read(path)["model"], given)


def test_bad_files_are_named(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        torch_format.read(tmp_path / "absent.safetensors")
    with pytest.raises(InputError, match="no such file; name a file of weights"):
        torch_format.read(tmp_path)
    torn = tmp_path / "torn.safetensors"
    torn.write_bytes(b"\x08\0\0\0\0\0\0\0{")
    with pytest.raises(InputError, match="torn.safetensors is not a safetensors file"):
        torch_format.read(torn)
    with pytest.raises(InputError, match="must be .safetensors, .pt or .pth"):
        torch_format.write(tmp_path / "model.bin", official(SMALL))


def test_torch_files_that_are_no_state_dict(tmp_path):
    torch = pytest.importorskip("torch")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(InputError, match="text is not a torch state dict"):
        torch_format.read(tmp_path / "text")
    torch.save([1, 2], tmp_path / "list")
    with pytest.raises(InputError, match="list is not a torch state dict"):
        torch_format.read(tmp_path / "list")


def test_missing_torch_names_the_command(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)  # what an absent package looks like to import
    (tmp_path / "model.pt").write_bytes(b"")
    with pytest.raises(InputError, match=r"pip install 'trm_jax\[torch\]'"):
        torch_format.read(tmp_path / "model.pt")


def test_numbers_that_would_lose_digits_are_refused_and_narrower_ones_kept():
    cfg, given = SMALL, official(SMALL)
    name = next(n for n in given if n.endswith("lm_head.weight"))
    with pytest.raises(InputError, match="lm_head.weight is float64, of which float32 would lose digits"):
        torch_format.import_state_dict({**given, name: given[name].astype(np.float64)}, cfg)
    narrow = {**given, name: given[name].astype(ml_dtypes.bfloat16)}
    back = torch_format.export_state_dict(torch_format.import_state_dict(narrow, cfg))
    np.testing.assert_array_equal(back[name], narrow[name].astype(np.float32))
