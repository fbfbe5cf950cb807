"""The puzzle table: shared by devices, updated where it was touched, begun from another run's."""

import json
import shutil

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from tests import tiny
from trm_jax import optim, sharding
from trm_jax.errors import InputError
from trm_jax.tasks.arc.predictions import contaminated, read

SIDE = 4


def write_tasks(folder, seed: int, count: int) -> None:
    draw = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    for number in range(count):
        pairs = [{k: draw.integers(0, 9, (2, 3)).tolist() for k in ("input", "output")} for _ in range(3)]
        (folder / f"t{seed}_{number}.json").write_text(json.dumps({"train": pairs[:2], "test": pairs[2:]}))


@pytest.fixture(scope="module")
def arc(tmp_path_factory):
    """Settings of ARC runs whose table has 512 rows: nine tasks in up to 51 forms; a tenth in another set."""
    folder = tmp_path_factory.mktemp("sets")
    write_tasks(folder / "a", 1, 9)
    write_tasks(folder / "b", 2, 1)
    changes = {"data.task": "arc", "data.path": str(folder), "data.train_sets": "a", "data.test_set": "a"}
    return {**changes, "data.augmentations": 50, "data.side": SIDE, "eval.max_examples": 16}


def mean_of(table: np.ndarray, ids: int) -> np.ndarray:
    return table[1:ids].mean(0, dtype=np.float64)


def test_a_shared_table_is_updated_as_a_dense_one_is():
    """Against float64 and a gradient as large as the table; ids twice in one device's part and in several parts.

    The sums of up to eight gradients are rounded to 6e-8 of the largest; no sum is so near 0 that its sign is.
    """
    rows, width, batch, lr, decay = 1024, 8, 64, 0.01, 0.1
    draw = np.random.default_rng(0)
    table = draw.normal(size=(rows, width)).astype(np.float32)
    ids = draw.integers(0, 40, batch).astype(np.int32) * 25
    ids[:4], ids[8], ids[16] = 7, 7, 7  # parts of eight rows lie on eight devices
    grads = draw.normal(size=(batch, width)).astype(np.float32)
    grads[ids == 25] = 0.0
    dense = np.zeros((rows, width))
    np.add.at(dense, ids, grads.astype(np.float64))
    assert np.abs(dense[dense != 0]).min() > 1e-6
    touched = np.isin(np.arange(rows), ids)[:, None]
    wanted = np.where(touched, table.astype(np.float64) * (1 - lr * decay) - lr * np.sign(dense), table)
    found = []
    for devices in (1, 8):
        mesh = sharding.make_mesh(devices=jax.devices()[:devices])
        cut = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
        placed = [jax.device_put(x, cut) for x in (table, ids, grads)]
        update = jax.jit(lambda *a: optim.sparse_sign_sgd(*a, lr, decay), out_shardings=cut)
        found.append(np.asarray(update(*placed)))
        np.testing.assert_allclose(found[-1], wanted, rtol=2e-7, atol=1e-7)
        np.testing.assert_array_equal(found[-1][~touched[:, 0]], table[~touched[:, 0]])
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("devices", [2, 8])
def test_each_device_holds_its_part_and_gathers_no_more(arc, devices):
    """Of the compiled step: arguments and temporaries of a device, with a table of 64 MB that none may hold whole."""
    from trm_jax.train.compiled import Compiled

    cfg = tiny.config({**arc, "model.puzzle_emb_ndim": 32, "train.batch_size": 16})
    found = {}
    for count in (1, devices):
        info = tiny.data(arc)[0].info
        info = info.__class__(**{**vars(info), "num_puzzle_ids": 2**19})
        big = cfg.__class__(
            **{**vars(cfg), "model": cfg.model.__class__(**{**vars(cfg.model), "num_puzzle_ids": 2**19})}
        )
        compiled = Compiled(big, info, jax.devices()[:count])
        rows = tiny.data(arc)[0].batch(0, compiled.slots, seed=0, batch_size=16)
        batch = {k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in rows.items()}
        stats = (
            compiled._step_of(big.model).lower(compiled.abstract, batch, compiled._hparams).compile().memory_analysis()
        )
        found[count] = stats
    whole = 2**19 * 32 * 4
    assert found[1].argument_size_in_bytes > whole
    # Beside the table the state is a megabyte or two.
    assert found[devices].argument_size_in_bytes < whole / devices + 4e6
    for stats in found.values():
        assert stats.temp_size_in_bytes < whole / 8 and stats.alias_size_in_bytes > 0


def test_a_table_on_eight_devices_is_that_of_one_and_resumes_exactly(arc, tmp_path):
    """Bit for bit after a stop; on one device and eight alike but for rows whose gradient is all rounding."""
    changes = {**arc, "train.steps": 9, "checkpoint.keep_every_steps": 3, "optim.warmup_steps": 1}
    changes |= {"train.batch_size": 32, "model.halt_max_steps": 1}
    for name, devices in (("one", 1), ("eight", 8)):
        tiny.train_here(tmp_path / name, changes, devices=devices)
    one, eight = (tiny.state(tmp_path / name, 9)["params/puzzle_emb"] for name in ("one", "eight"))
    assert one.shape == (512, 32) and (one[1:460] != 0).any(1).sum() > 20 and not one[461:].any()
    assert np.mean(one != eight) < 0.01
    half = tmp_path / "half"
    outcome = tiny.train_here(half, changes, devices=8, stop=tiny.StopAfter(half, 2))
    assert outcome.stopped_by and outcome.step < 9
    tiny.train_here(half, changes, devices=8)
    tiny.assert_same_state(tiny.state(half, 9), tiny.state(tmp_path / "eight", 9))


@pytest.fixture(scope="module")
def begun(arc, tmp_path_factory):
    """A run that others start from."""
    run = tmp_path_factory.mktemp("begun") / "run"
    tiny.train_here(run, {**arc, "train.steps": 6, "optim.table_lr": 0.1})
    return run


def first_state(changes: dict) -> dict[str, np.ndarray]:
    from trm_jax.models.params import path_name
    from trm_jax.train.compiled import Compiled

    state = Compiled(tiny.config(changes), tiny.data(changes)[0].info, jax.devices()[:1]).first_state()
    return {path_name(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(state)}


def test_a_run_begins_with_the_averaged_weights_of_another(arc, begun):
    there, here = tiny.state(begun, 6), first_state({**arc, "train.start_from": str(begun)})
    for name, values in here.items():
        if name.startswith(("params/weights", "ema/")):
            np.testing.assert_array_equal(values, there["ema/" + name.split("/", 2 if "params" in name else 1)[-1]])
    np.testing.assert_array_equal(here["params/puzzle_emb"], there["params/puzzle_emb"])
    assert here["step"] == 0 and not any(values.any() for name, values in here.items() if "/mu/" in name)


@pytest.mark.parametrize(("sets", "kept"), [("a,b", 460), ("b,a", 1), ("b", 1)])
def test_new_ids_begin_with_the_mean(arc, begun, sets, kept):
    """Appended sets leave the ids of the others as they were; row 0 is the blank id's."""
    changes = {**arc, "data.train_sets": sets, "data.test_set": sets[-1], "train.start_from": str(begun)}
    ids = tiny.data(arc)[0].info.num_puzzle_ids
    there, here = tiny.state(begun, 6)["params/puzzle_emb"], first_state(changes)["params/puzzle_emb"]
    kept = ids if kept > 1 else 1
    np.testing.assert_array_equal(here[:kept], there[:kept])
    # A mean of 459 float32 numbers.
    new = tiny.data(changes)[0].info.num_puzzle_ids
    assert new > kept
    np.testing.assert_allclose(here[kept:new], np.broadcast_to(mean_of(there, ids), (new - kept, 32)), atol=1e-7)


def test_only_the_table_is_trained(arc, begun, tmp_path):
    changes = {**arc, "data.train_sets": "b", "data.test_set": "b", "train.start_from": str(begun)}
    changes |= {"train.parameters": "tables", "train.steps": 6, "optim.table_lr": 0.01}
    first = first_state(changes)
    tiny.train_here(tmp_path / "run", changes)
    after = tiny.state(tmp_path / "run", 6)
    for name, values in first.items():
        if name.startswith(("params/", "ema/", "opt_state/")) and "puzzle_emb" not in name:
            np.testing.assert_array_equal(after[name], values, err_msg=name)
    assert (after["params/puzzle_emb"] != first["params/puzzle_emb"]).any()
    assert all(
        np.isfinite(record["grad_norm"]) and record["grad_norm"] > 0
        for record in tiny.records(tmp_path / "run", "train")
    )


def test_predictions_say_what_the_run_that_it_began_with_has_seen(arc, tmp_path):
    """By a run that asks a set on whose answers the first one was trained."""
    few = {"train.steps": 1, "data.augmentations": 2}
    changes = {**arc, **few, "data.train_sets": "a,b"}
    tiny.train_here(tmp_path / "one", changes)
    assert read(tmp_path / "one/predictions.jsonl")[0].member.trained_on == ["b:all", "a:demonstrations"]
    changes |= {"data.test_set": "b", "data.train_sets": "b", "train.start_from": str(tmp_path / "one")}
    tiny.train_here(tmp_path / "two", changes, lines=(lines := []))
    [said] = [line for line in lines if "what it begins with was trained on the answers of b" in line]
    assert "predictions are marked so" in said
    header = read(tmp_path / "two/predictions.jsonl")[0]
    assert header.member.trained_on == ["b:demonstrations", "b:all", "a:demonstrations"]
    assert contaminated(header) == "the answers of b"
    changes |= {"train.steps": 3, "checkpoint.every_steps": 1}
    tiny.train_here(tmp_path / "three", changes, stop=tiny.StopAfter(tmp_path / "three", 1))
    shutil.rmtree(tmp_path / "one")
    tiny.train_here(tmp_path / "three", changes, lines=(lines := []))
    assert any(line.startswith("going on from step") for line in lines), lines
    assert "nobody knows what" in contaminated(read(tmp_path / "three/predictions.jsonl")[0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.L_layers": 2}, "is another model: its weights differ; set model.* as there"),
        ({"model.puzzle_emb_ndim": 16}, "has no puzzle_emb of that width"),
        ({"train.start_from": "/nowhere"}, "/nowhere is not a run"),
        ({"train.start_at": "7"}, "no checkpoint '7'"),
    ],
)
def test_what_cannot_be_begun_from(arc, begun, changes, message):
    with pytest.raises(InputError, match=message.replace("*", r"\*")):
        first_state({**arc, "train.start_from": str(begun), **changes})


def test_a_model_without_a_table_has_nothing_else_to_train():
    with pytest.raises(InputError, match="train.parameters=tables, but this model has no table"):
        tiny.config({"train.parameters": "tables", "model.puzzle_emb_ndim": 0, "model.puzzle_emb_len": 0})
    assert tiny.config({"train.parameters": "tables"}).tables == ["puzzle_emb"]
