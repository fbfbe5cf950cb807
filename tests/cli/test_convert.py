"""`trm export` and `trm import`: official weights come in and go out bit for bit, a run comes back as it was."""

import json
import shlex

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests import tiny
from tests.models.test_torch_format import assert_identical, official


@pytest.fixture(scope="module")
def weights() -> dict[str, np.ndarray]:
    """Made up, for the boards and the sizes of a tiny run."""
    return official(tiny.config().model)


@pytest.fixture(scope="module")
def file(weights, tmp_path_factory):
    file = tmp_path_factory.mktemp("official") / "official.safetensors"
    save_file(weights, file)
    return file


@pytest.fixture(scope="module")
def imported(trm, file, tmp_path_factory):
    """A run of them."""
    workdir = tmp_path_factory.mktemp("imported") / "the run"
    result = trm.run(*command(file, workdir))
    assert result.code == 0, result.err
    said = [f"imported {len(load_file(file))} arrays under model.inner into {workdir}"]
    said += [f"next: trm eval '{workdir}'   or: trm solve '{workdir}' PUZZLE"]
    assert result.out.splitlines() == said
    return workdir


def command(file, workdir, *more) -> list[str]:
    return ["import", str(file), "--config", "demo", "--workdir", str(workdir), *more, *tiny.arguments()]


def test_official_weights_come_and_go_bit_for_bit(trm, imported, weights, tmp_path):
    result = trm.run("export", imported, tmp_path / "again.safetensors")
    assert result.code == 0, result.err
    wrote, following = result.out.splitlines()
    assert wrote == f"wrote {len(weights)} arrays of step 0 to {tmp_path}/again.safetensors"
    assert following.startswith(f"next: trm import {tmp_path}/again.safetensors --config demo --workdir DIR --set ")
    assert_identical(load_file(tmp_path / "again.safetensors"), weights)


def scores(out: str) -> list[str]:
    return [line for line in out.splitlines() if "accuracy" in line]


def test_a_trained_run_goes_out_and_comes_back(trm, solver, tmp_path):
    """Its averaged weights, or the live ones if asked; it scores as before."""
    out = trm.run("export", solver.workdir, tmp_path / "run.safetensors").out
    assert trm.run("export", solver.workdir, tmp_path / "live.safetensors", "--live", "--prefix", "").code == 0
    ours, theirs = tiny.state(solver.workdir, 200), load_file(tmp_path / "run.safetensors")
    live = load_file(tmp_path / "live.safetensors")
    np.testing.assert_array_equal(theirs["model.inner.lm_head.weight"], ours["ema/lm_head"].T)
    np.testing.assert_array_equal(live["lm_head.weight"], ours["params/weights/lm_head"].T)
    assert not np.array_equal(live["lm_head.weight"], theirs["model.inner.lm_head.weight"])
    np.testing.assert_array_equal(theirs["model.inner.puzzle_emb.weights"], ours["params/puzzle_emb"])
    np.testing.assert_array_equal(theirs["model.inner.H_init"], ours["params/buffers/H_init"])

    words = shlex.split(out.splitlines()[-1].removeprefix("next: trm "))
    result = trm.run(*(word.replace("DIR", str(tmp_path / "back")) for word in words))
    assert result.code == 0, result.err
    original, back = trm.run("eval", solver.workdir), trm.run("eval", tmp_path / "back")
    assert scores(back.out) == scores(original.out) and len(scores(back.out)) == 3


NO_FORMAT = "a model of the family Symbols has no official format: import and export need one"


def test_a_family_without_an_official_format_is_not_imported(refused, file, tmp_path):
    said = refused("import", file, "--config", "sudoku_symbols_small", "--workdir", tmp_path / "run")
    assert said == f"{file}: {NO_FORMAT}" and not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_family_without_an_official_format_is_not_exported(trm, refused, tmp_path):
    """Of `symbols`, which learns, evaluates and solves as any other."""
    run = tmp_path / "run"
    changes = {name: value for name, value in tiny.SETTINGS.items() if not name.startswith("model.")}
    changes |= {"model.family": "symbols", "model.hidden_size": 16, "model.H_cycles": 1, "model.L_cycles": 1}
    changes |= {"model.halt_max_steps": 2, "model.dtype": "float32", "train.steps": 6}
    result = trm.run("train", "demo", "--workdir", run, "--set", *(f"{key}={value}" for key, value in changes.items()))
    assert result.code == 0, result.err
    assert trm.run("solve", run, "1" + "." * 15).code == 1  # after six steps it solves nothing
    assert refused("export", run, tmp_path / "run.safetensors") == NO_FORMAT
    assert not (tmp_path / "run.safetensors").exists()


@pytest.mark.slow
def test_an_imported_run_can_be_trained_further(trm, solver, tmp_path):
    out = trm.run("export", solver.workdir, tmp_path / "run.safetensors").out
    words = shlex.split(out.splitlines()[-1].removeprefix("next: trm "))
    settings = tiny.arguments(tiny.SOLVER)  # the line gives those of the model alone
    back = [word.replace("DIR", str(tmp_path / "back")) for word in words]
    assert trm.run(*back, *settings).code == 0
    result = trm.run("train", "demo", "--workdir", tmp_path / "back", *settings)
    assert result.code == 0, result.err
    assert "going on from step 0 of 200" in result.err
    imported, untrained = (tiny.records(run, "train")[0]["loss"] for run in (tmp_path / "back", solver.workdir))
    assert imported < untrained / 2  # it begins with what it had learned


def test_a_torch_file_is_written_and_read(trm, imported, weights, tmp_path):
    pytest.importorskip("torch")
    assert trm.run("export", imported, tmp_path / "run.pt").code == 0
    assert trm.run(*command(tmp_path / "run.pt", tmp_path / "back")).code == 0
    assert trm.run("export", tmp_path / "back", tmp_path / "again.safetensors").code == 0
    assert_identical(load_file(tmp_path / "again.safetensors"), weights)


def test_sizes_come_from_the_file_and_the_key_says_which_weights(trm, refused, weights, tmp_path):
    """The experiment says 128 wide; the file says 32 and holds two sets of weights."""
    averaged = official(tiny.config().model, seed=7, prefix="")
    both = {f"model.{name}": array for name, array in weights.items()}
    save_file(both | {f"ema.module.{name}": array for name, array in averaged.items()}, tmp_path / "both.safetensors")
    of_the_file = ("model.hidden_size", "model.puzzle_emb_ndim")
    assignments = [f"{key}={value}" for key, value in tiny.SETTINGS.items() if key not in of_the_file]
    argv = ["import", tmp_path / "both.safetensors", "--config", "demo", "--workdir", tmp_path / "run"]
    said = (
        f"{tmp_path}/both.safetensors: there are state dicts under ema.module, model.model.inner: choose one with --key"
    )
    assert refused(*argv, "--set", *assignments).startswith(said)
    result = trm.run(*argv, "--key", "ema", "--set", *assignments)
    assert result.code == 0 and " arrays under ema.module into " in result.out, result.err
    assert json.loads((tmp_path / "run" / "config.json").read_text())["model"]["hidden_size"] == 32
    assert trm.run("export", tmp_path / "run", tmp_path / "ema.safetensors", "--prefix", "").code == 0
    assert_identical(load_file(tmp_path / "ema.safetensors"), averaged)


def missing(arrays):
    del arrays["model.inner.lm_head.weight"]


def unknown(arrays):
    arrays["model.inner.something.weight"] = np.zeros(3, np.float32)


def misshapen(arrays):
    arrays["model.inner.L_level.layers.0.mlp.down_proj.weight"] = np.zeros((32, 255), np.float32)


def infinite(arrays):
    arrays["model.inner.H_init"][3] = np.inf


def foreign_table(arrays):
    arrays["model.inner.puzzle_emb.weights"] = np.zeros((876406, 32), np.float32)


def no_weights(arrays):
    del arrays["model.inner.H_init"]


@pytest.mark.parametrize(
    "damage, name",
    [
        (missing, "missing entry lm_head.weight"),
        (unknown, "unknown entry something.weight"),
        (misshapen, "layers.0.mlp.down_proj.weight has shape"),
        (infinite, "H_init holds values that are not finite"),
        (
            foreign_table,
            "num_puzzle_ids is 876406 in the weights and 1 in the data of demo; its puzzle table belongs to",
        ),
        (no_weights, "not an official TRM state dict"),
    ],
)
def test_files_whose_entries_are_wrong(refused, weights, tmp_path, damage, name):
    arrays = {key: array.copy() for key, array in weights.items()}
    damage(arrays)
    save_file(arrays, tmp_path / "damaged.safetensors")
    said = refused(*command(tmp_path / "damaged.safetensors", tmp_path / "run"))
    assert said.startswith(f"{tmp_path}/damaged.safetensors: ") and name in said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name, content", [("x.safetensors", b"rubbish"), ("x.pt", b"rubbish"), ("x.safetensors", b"")])
def test_files_of_another_kind(refused, tmp_path, name, content):
    if name.endswith(".pt"):
        pytest.importorskip("torch")
    (tmp_path / name).write_bytes(content)
    assert refused(*command(tmp_path / name, tmp_path / "run")).startswith(f"{tmp_path / name} is not a")
    assert not (tmp_path / "run").exists()


def test_weights_of_another_data_set(refused, file, tmp_path):
    arguments = ["import", file, "--config", "demo", "--workdir", tmp_path / "run", "--set", "data.size=9"]
    said = refused(*arguments, "model.mlp_t=True", "model.pos_encodings=none")
    assert "vocab_size is 6 in the weights and 11 in the data of demo" in said


def test_nothing_is_overwritten(trm, refused, imported, file, tmp_path):
    (tmp_path / "there.safetensors").write_bytes(b"mine")
    said = f"{tmp_path}/there.safetensors exists; give another name or --force"
    assert refused("export", imported, tmp_path / "there.safetensors").startswith(said)
    assert (tmp_path / "there.safetensors").read_bytes() == b"mine"
    assert trm.run("export", imported, tmp_path / "there.safetensors", "--force").code == 0
    before = (imported / "config.json").read_bytes()
    assert f"{imported} holds a run already" in refused(*command(file, imported))
    assert (imported / "config.json").read_bytes() == before


@pytest.mark.parametrize("name", ["run.bin", "folder/run.bin"])
def test_files_that_cannot_be_written(refused, imported, tmp_path, name):
    refused("export", imported, tmp_path / name)
    assert not (tmp_path / name).exists() and not list(tmp_path.iterdir())
