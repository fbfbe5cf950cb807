"""`trm export` and `trm import`: a run goes out in the official format and comes back as it was."""

import json
import shlex

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests import tiny


@pytest.fixture(scope="module")
def exported(trm, solver, tmp_path_factory):
    file = tmp_path_factory.mktemp("exported") / "run.safetensors"
    result = trm.run("export", solver.workdir, file)
    assert result.code == 0, result.err
    wrote, following = result.out.splitlines()
    assert wrote == f"wrote {len(load_file(file))} arrays of step 200 to {file}"
    assert following.startswith(f"next: trm import {file} --config demo --workdir DIR --set ")
    return file


def command(file, workdir) -> list[str]:
    return ["import", str(file), "--config", "demo", "--workdir", str(workdir), *tiny.arguments(tiny.SOLVER)]


def scores(out: str) -> list[str]:
    return [line for line in out.splitlines() if "accuracy" in line]


def test_the_averaged_weights_go_out_under_the_official_names(exported, solver):
    ours, theirs = tiny.state(solver.workdir, 200), load_file(exported)
    assert all(name.startswith("model.inner.") for name in theirs)
    np.testing.assert_array_equal(theirs["model.inner.lm_head.weight"], ours["ema/lm_head"].T)
    np.testing.assert_array_equal(theirs["model.inner.puzzle_emb.weights"], ours["params/puzzle_emb"])
    np.testing.assert_array_equal(theirs["model.inner.H_init"], ours["params/buffers/H_init"])


def test_the_live_weights_if_asked(trm, solver, tmp_path):
    assert trm.run("export", solver.workdir, tmp_path / "live.safetensors", "--live", "--prefix", "").code == 0
    ours, theirs = tiny.state(solver.workdir, 200), load_file(tmp_path / "live.safetensors")
    np.testing.assert_array_equal(theirs["lm_head.weight"], ours["params/weights/lm_head"].T)
    assert not np.array_equal(ours["params/weights/lm_head"], ours["ema/lm_head"])


@pytest.mark.parametrize("ending", ["safetensors", "pt"])
def test_there_and_back_scores_the_same(trm, solver, exported, tmp_path, ending):
    imported = command(exported, tmp_path / "the back")
    if ending == "pt":
        pytest.importorskip("torch")
        following = trm.run("export", solver.workdir, tmp_path / "run.pt").out.splitlines()[-1]
        imported = [word.replace("DIR", str(tmp_path / "the back")) for word in shlex.split(following)[2:]]
    result = trm.run(*imported)
    assert result.code == 0, result.err
    assert f"next: trm eval '{tmp_path}/the back'   or: trm solve '{tmp_path}/the back' PUZZLE" in result.out
    original, back = trm.run("eval", solver.workdir), trm.run("eval", tmp_path / "the back")
    assert scores(back.out) == scores(original.out) and len(scores(back.out)) == 3
    assert trm.run("solve", tmp_path / "the back", solver.puzzles[0]).code == 0
    again = tmp_path / "again.safetensors"
    assert trm.run("export", tmp_path / "the back", again).code == 0
    tiny.assert_same_state(load_file(again), load_file(exported))


@pytest.mark.slow
def test_an_imported_run_can_be_trained_further(trm, solver, exported, tmp_path):
    assert trm.run(*command(exported, tmp_path / "back")).code == 0
    result = trm.run("train", "demo", "--workdir", tmp_path / "back", *tiny.arguments(tiny.SOLVER))
    assert result.code == 0, result.err
    assert "going on from step 0 of 200" in result.err
    imported, untrained = (tiny.records(run, "train")[0]["loss"] for run in (tmp_path / "back", solver.workdir))
    assert imported < untrained / 2  # it begins with what it had learned


def test_sizes_come_from_the_file(trm, exported, tmp_path):
    """The experiment says 128 wide; the file says 64."""
    of_the_file = ("model.hidden_size", "model.puzzle_emb_ndim")
    settings = {**tiny.SETTINGS, **tiny.SOLVER}
    assignments = [f"{key}={value}" for key, value in settings.items() if key not in of_the_file]
    result = trm.run("import", exported, "--config", "demo", "--workdir", tmp_path / "run", "--set", *assignments)
    assert result.code == 0, result.err
    assert json.loads((tmp_path / "run" / "config.json").read_text())["model"]["hidden_size"] == 64


def missing(arrays):
    del arrays["model.inner.lm_head.weight"]


def unknown(arrays):
    arrays["model.inner.something.weight"] = np.zeros(3, np.float32)


def misshapen(arrays):
    arrays["model.inner.L_level.layers.0.mlp.down_proj.weight"] = np.zeros((64, 255), np.float32)


def infinite(arrays):
    arrays["model.inner.H_init"][3] = np.inf


@pytest.mark.parametrize(
    "damage, name",
    [
        (missing, "missing entry lm_head.weight"),
        (unknown, "unknown entry something.weight"),
        (misshapen, "layers.0.mlp.down_proj.weight has shape"),
        (infinite, "H_init holds values that are not finite"),
    ],
)
def test_files_whose_entries_are_wrong(trm, exported, tmp_path, damage, name):
    arrays = load_file(exported)
    damage(arrays)
    save_file(arrays, tmp_path / "damaged.safetensors")
    result = trm.run(*command(tmp_path / "damaged.safetensors", tmp_path / "run"))
    assert result.code == 2 and len(result.err.splitlines()) == 1, result.err
    assert result.err.startswith(f"error: {tmp_path}/damaged.safetensors: ") and name in result.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name, content", [("x.safetensors", b"rubbish"), ("x.pt", b"rubbish"), ("x.safetensors", b"")])
def test_files_of_another_kind(trm, tmp_path, name, content):
    if name.endswith(".pt"):
        pytest.importorskip("torch")
    (tmp_path / name).write_bytes(content)
    result = trm.run(*command(tmp_path / name, tmp_path / "run"))
    assert result.code == 2 and len(result.err.splitlines()) == 1, result.err
    assert f"error: {tmp_path / name} is not a" in result.err and not (tmp_path / "run").exists()


def test_weights_of_another_data_set(trm, exported, tmp_path):
    arguments = ["import", exported, "--config", "demo", "--workdir", tmp_path / "run", "--set", "data.size=9"]
    result = trm.run(*arguments, "model.mlp_t=True", "model.pos_encodings=none")
    assert result.code == 2 and len(result.err.splitlines()) == 1, result.err
    assert "vocab_size 6, the data of demo has 11" in result.err


def test_nothing_is_overwritten(trm, solver, exported, tmp_path):
    result = trm.run("export", solver.workdir, exported)
    assert result.code == 2 and f"error: {exported} exists; give another name or --force" in result.err
    assert trm.run("export", solver.workdir, exported, "--force").code == 0
    before = (solver.workdir / "config.json").read_bytes()
    result = trm.run(*command(exported, solver.workdir))
    assert result.code == 2 and f"{solver.workdir} holds a run already" in result.err
    assert (solver.workdir / "config.json").read_bytes() == before


@pytest.mark.parametrize("name", ["run.bin", "folder/run.safetensors"])
def test_files_that_cannot_be_written(trm, solver, tmp_path, name):
    result = trm.run("export", solver.workdir, tmp_path / name)
    assert result.code == 2 and len(result.err.splitlines()) == 1, result.err
    assert not (tmp_path / name).exists() and not list(tmp_path.iterdir())
