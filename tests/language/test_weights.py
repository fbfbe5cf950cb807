"""Reading weights: single and sharded files, parts of them, and files that are not as they should be."""

import dataclasses
import json
import re
import shutil
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from trm_jax import sharding
from trm_jax.errors import InputError
from trm_jax.language import config, weights
from trm_jax.models import decoder, params, quant

SHARDS = "model.safetensors.index.json"


@pytest.fixture(scope="module")
def sharded(golden_folder):
    return golden_folder / "llm" / "llama32_sharded"


@pytest.fixture(scope="module")
def half(golden_folder):
    """A file in bfloat16, with a head that repeats the embedding."""
    return golden_folder / "llm" / "llama_bf16_file"


@pytest.fixture
def copy(tmp_path, half):
    """A folder with a single file; changed(...) writes its tensors again."""
    shutil.copytree(half, tmp_path, dirs_exist_ok=True)
    return tmp_path


def changed(folder, change) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def load(folder, **given):
    return weights.load(folder, config.read(folder), **given)


def test_arrays_are_the_files_turned(sharded):
    """All shards, kernels as [in, out], layer by layer; progress is called with what is done up to the whole."""
    cfg, seen = config.read(sharded), []
    tree = weights.load(sharded, cfg, progress=lambda *at: seen.append(at))
    said = {}
    for path in sharded.glob("*.safetensors"):
        said |= load_file(path)
    np.testing.assert_array_equal(tree["embed"], said["model.embed_tokens.weight"])
    for layer in range(cfg.layers):
        of = f"model.layers.{layer}."
        np.testing.assert_array_equal(tree["layers"]["down"][layer], said[f"{of}mlp.down_proj.weight"].T)
        np.testing.assert_array_equal(tree["layers"]["attn_norm"][layer], said[f"{of}input_layernorm.weight"])
    shapes = jax.tree.map(lambda x: (x.shape, x.dtype), tree)
    assert shapes == jax.tree.map(lambda x: (x.shape, x.dtype), params.abstract(decoder.specs(cfg)))
    assert [at for at, _ in seen] == sorted({at for at, _ in seen})
    assert seen[-1] == (params.count(decoder.specs(cfg)),) * 2


def test_types_are_cast_while_reading(half):
    """bfloat16 is float32 with fewer bits: there and back nothing changes."""
    plain = load(half)
    exact = weights.load(half, config.read(half, dtype="float32"))
    for one, other in zip(*map(jax.tree.leaves, (plain, exact)), strict=True):
        assert (one.dtype, other.dtype) == (jnp.bfloat16, jnp.float32)
        np.testing.assert_array_equal(one.astype(jnp.float32), other)


def test_kernels_are_quantised_as_they_come(half):
    small, whole = load(half, quantise="int8"), load(half)
    for name in quant.LINEARS:
        wanted = quant.quantise(whole["layers"][name], "int8")
        np.testing.assert_array_equal(small["layers"][name].codes, wanted.codes)
    assert small["embed"].dtype == jnp.bfloat16


@pytest.mark.parametrize(
    "shape", [{"data": 2, "tensor": 4}, {"fsdp": 4, "data": 2}, {"fsdp": 2, "tensor": 2, "data": 2}]
)
def test_devices_read_their_own_parts(sharded, shape, monkeypatch):
    """Together no number twice, whatever is shared; and every device's part is that of the whole."""
    cfg, read = config.read(sharded), []
    part = weights._part
    monkeypatch.setattr(weights, "_part", lambda *args: read.append(part(*args)) or read[-1])
    mesh = sharding.make_mesh(**shape)
    place = partial(sharding.shardings, mesh, sharding.Rules())
    places = place(decoder.specs(cfg))
    tree = weights.load(sharded, cfg, place)
    assert sum(x.size for x in read) == params.count(decoder.specs(cfg))
    parts = [x.size for x in read if x.size != tree["embed"].size]  # which only fsdp cuts
    assert max(parts) < tree["layers"]["gate"].size
    monkeypatch.undo()
    for one, other, place in zip(*map(jax.tree.leaves, (tree, weights.load(sharded, cfg), places)), strict=True):
        assert one.sharding == place
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("how", quant.KINDS)
@pytest.mark.parametrize(
    "shape", [{"data": 2, "tensor": 4}, pytest.param({"fsdp": 2, "tensor": 2, "data": 2}, marks=pytest.mark.slow)]
)
def test_devices_quantise_their_own_parts(copy, how, shape):
    """Kernels with groups enough to share: what lies on the mesh is what lies on one device, cut where declared."""
    cfg = decoder.Config(20, 256, 2, 4, 4, 64, 512, 1e4, tied=True)
    write(copy, cfg)
    place = partial(sharding.shardings, sharding.make_mesh(**shape), sharding.Rules())
    places, tree = place(quant.specs(decoder.specs(cfg), how)), weights.load(copy, cfg, place, quantise=how)
    for one, other, lies in zip(
        *map(jax.tree.leaves, (tree, weights.load(copy, cfg, quantise=how), places)), strict=True
    ):
        assert one.sharding == lies
        np.testing.assert_array_equal(one, other)
    down, many = jax.tree.leaves(tree["layers"]["down"])[0], shape["tensor"] * shape.get("fsdp", 1)
    assert down.addressable_shards[0].data.size == down.size // many
    sizes = jax.tree.map(lambda x: (x.shape, x.dtype), tree)
    declared = jax.tree.map(
        lambda x: (x.shape, jnp.dtype(x.dtype)), quant.specs(decoder.specs(cfg), how), is_leaf=params.is_spec
    )
    assert sizes == declared


def write(folder, cfg) -> None:
    """Random weights of this shape as a file."""
    draw, tensors = np.random.default_rng(0), {}
    for path, spec in jax.tree_util.tree_leaves_with_path(decoder.specs(cfg), is_leaf=params.is_spec):
        shape = spec.shape[len(path) - 1 :]
        for name in weights.names_of(path[-1].key, cfg.layers):
            turned = shape[::-1] if spec.kind in ("matrix", "head") else shape
            tensors[name] = draw.normal(size=turned).astype(np.float32)
    save_file(tensors, folder / "model.safetensors")


def test_what_devices_cannot_share_is_named(copy):
    cfg = decoder.Config(20, 128, 1, 4, 4, 32, 192, 1e4, tied=True)
    write(copy, cfg)
    place = partial(sharding.shardings, sharding.make_mesh(data=2, tensor=4), sharding.Rules())
    assert weights.load(copy, cfg, place, quantise="int8")
    with pytest.raises(
        InputError, match=r"layers/down/packed \[1, 128, 96\] cannot be shared by 4 devices .* blocks of 32"
    ):
        weights.load(copy, cfg, place, quantise="int4")
    with pytest.raises(InputError, match="down: int4: a group of 64 does not divide 96 inputs"):
        weights.load(copy, dataclasses.replace(cfg, inner_size=96), quantise="int4")


NORM, GATE = "model.norm.weight", "model.layers.1.mlp.gate_proj.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(GATE), f"tensors are missing: {GATE}; are config and weights"),
        (lambda t: [t.pop(x) for x in list(t) if "layers.0" in x], r"missing: .*down_proj.weight, .* and 6 more"),
        (lambda t: t.update({"model.extra": t[NORM]}), "tensors have no place in the model: model.extra"),
        (lambda t: t.update({GATE: t[GATE].T.copy()}), rf"{GATE} is \[32, 48\], but the config makes it \[48, 32\]"),
        (lambda t: t.update({NORM: t[NORM].view(np.int16)}), f"{NORM} is I16; supported are F64, F32, F16, BF16"),
        (lambda t: t.update({"lm_head.weight": -t["lm_head.weight"]}), "lm_head.weight differs from model.embed"),
    ],
)  # fmt: skip
def test_tensors_that_are_not_as_the_config_says(copy, change, message):
    changed(copy, change)
    with pytest.raises(InputError, match=message) as caught:
        load(copy)
    assert str(copy) in str(caught.value) and "\n" not in str(caught.value)


def test_what_may_be_there_or_not(copy, half):
    """A tied head, equal or absent, and the frequencies that old files hold."""
    changed(copy, lambda t: t.pop("lm_head.weight"))
    changed(copy, lambda t: t.update({"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(4, np.float32)}))
    for one, other in zip(*map(jax.tree.leaves, (load(copy), load(half))), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_tensor_is_read_from_the_shard_that_the_index_names(tmp_path, sharded):
    """Another may hold an older one of the same name."""
    shutil.copytree(sharded, tmp_path, dirs_exist_ok=True)
    listed = json.loads((tmp_path / SHARDS).read_text())["weight_map"]
    for shard in sorted({*listed.values()} - {listed[NORM]}):
        save_file(load_file(tmp_path / shard) | {NORM: np.zeros(32, np.float32)}, tmp_path / shard)
    np.testing.assert_array_equal(load(str(tmp_path))["norm"], load(sharded)["norm"])


def test_files_that_are_cut_off(tmp_path, sharded):
    shutil.copytree(sharded, tmp_path, dirs_exist_ok=True)
    shard = tmp_path / "model-00003-of-00004.safetensors"
    whole = shard.read_bytes()
    for size, message in (
        (len(whole) - 1, rf"{shard} is cut off: model\.\S+ ends at byte {len(whole)} of {len(whole) - 1}; copy"),
        (100, f"{shard} is cut off in its header"),
        (0, f"{shard} is cut off in its header"),
    ):  # fmt: skip
        shard.write_bytes(whole[:size])
        with pytest.raises(InputError, match=message):
            load(tmp_path)
    shard.unlink()
    with pytest.raises(InputError, match=rf"{shard} is not there, but {SHARDS} lists it, for model\.\S+ and others"):
        load(tmp_path)
    shard.write_bytes(b"\x03" + bytes(7) + b"no!" + bytes(99))
    with pytest.raises(InputError, match=f"{shard} is not a safetensors file"):
        load(tmp_path)
    for odd in ({"data_offsets": ["a", 1]}, {"data_offsets": [0, 4], "shape": [{}]}):
        head = json.dumps({"x": {"dtype": "F32", "shape": [1], **odd}}).encode()
        shard.write_bytes(len(head).to_bytes(8, "little") + head + bytes(8))
        with pytest.raises(InputError, match=f"{shard} is not a safetensors file: its header says nothing of x"):
            load(tmp_path)
    shard.write_bytes((tmp_path / "model-00002-of-00004.safetensors").read_bytes())
    with pytest.raises(InputError, match=rf"{shard} has no tensor model\.\S+, but {SHARDS} says so"):
        load(tmp_path)
    for odd in ({"metadata": {}}, {"weight_map": [1]}, []):
        (tmp_path / SHARDS).write_text(json.dumps(odd))
        with pytest.raises(InputError, match="no weight_map"):
            load(tmp_path)
    (tmp_path / SHARDS).unlink()
    with pytest.raises(InputError, match="has neither model.safetensors nor model.safetensors.index.json"):
        load(tmp_path)


def test_the_page_s_example_runs(golden_folder, monkeypatch):
    """It writes what the decoder foretells of what it wrote."""
    root = golden_folder.parents[1]
    monkeypatch.chdir(root)
    example, *_ = re.findall(
        r"^```python\n(.*?)^```", (root / "docs/language.md").read_text(), re.MULTILINE | re.DOTALL
    )
    names: dict = {}
    exec(compile(example, "docs/language.md", "exec"), names)
    written = np.concatenate([names["tokens"][0], names["answer"].tokens])
    foretold = decoder.forward(names["params"], names["cfg"], written[None, :-1]).argmax(-1)[0]
    np.testing.assert_array_equal(written[3:], foretold[2:])
    assert names["hidden"].shape == (4, 1, 3, 32)
