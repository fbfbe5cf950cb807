"""What stays on the disk, what comes back from it, and what happens when it was damaged."""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from tests import faults, tiny
from trm_jax.configs.workdir import claim
from trm_jax.errors import InputError
from trm_jax.train.checkpoint import Checkpoints, fingerprint, pick_step
from trm_jax.train.config import CheckpointConfig


def policy(**how) -> CheckpointConfig:
    kept = {"keep_last": 1, "keep_best": 0, "keep_every_steps": 0, **how}
    return CheckpointConfig(every_steps=1, every_minutes=0, **kept)


HEADLINE = "exact_accuracy"
SCORES = {2: 0.5, 4: 0.9, 6: 0.7, 8: 0.6}


@pytest.mark.parametrize(
    "how, left",
    [
        ({"keep_last": 1}, [9]),
        ({"keep_last": 3}, [7, 8, 9]),
        ({"keep_last": 1, "keep_best": 1}, [4, 9]),
        ({"keep_last": 1, "keep_best": 2}, [4, 6, 9]),
        ({"keep_last": 1, "keep_every_steps": 3}, [3, 6, 9]),
        ({"keep_last": 2, "keep_best": 1, "keep_every_steps": 5}, [4, 5, 8, 9]),
    ],
)
def test_policies_leave_exactly_their_steps(tmp_path, how, left):
    checkpoints = Checkpoints(str(tmp_path), HEADLINE, policy(**how))
    for step in range(1, 10):
        assert checkpoints.save(step, {"w": np.full(3, step)}, {"elapsed_s": float(step)}, SCORES.get(step))
    checkpoints.wait()
    assert checkpoints.steps() == left
    assert pick_step(checkpoints, "latest") == 9
    if how.get("keep_best"):
        assert pick_step(checkpoints, "best") == 4
    checkpoints.close()
    assert sorted(int(f.name) for f in tmp_path.iterdir()) == left


def test_the_best_loss_is_the_lowest(tmp_path):
    checkpoints = Checkpoints(str(tmp_path), "loss", policy(keep_best=1))
    for step, loss in ((1, 0.5), (2, 0.1), (3, 0.7), (4, 0.6)):
        checkpoints.save(step, {"w": np.full(3, step)}, {}, loss)
    checkpoints.wait()
    assert checkpoints.steps() == [2, 4] and pick_step(checkpoints, "best") == 2
    checkpoints.close()


def test_the_checkpoint_of_a_step_is_saved_once(tmp_path):
    """Only one that lacks the scores of an evaluation gives way to one that has them, if it is not the only one."""
    checkpoints = Checkpoints(str(tmp_path), HEADLINE, policy(keep_last=2, keep_best=1))
    assert checkpoints.save(1, {"w": np.zeros(3)}, {})
    checkpoints.wait()
    assert not checkpoints.save(1, {"w": np.ones(3)}, {}, 0.25)  # killed now, the run would have lost everything
    assert checkpoints.save(2, {"w": np.zeros(3)}, {})
    checkpoints.wait()
    assert not checkpoints.save(2, {"w": np.ones(3)}, {})
    assert checkpoints.save(2, {"w": np.ones(3)}, {}, 0.25)
    checkpoints.wait()
    assert checkpoints.best_step() == 2 and checkpoints.steps() == [1, 2]
    assert not checkpoints.save(2, {"w": np.zeros(3)}, {}, 0.5)
    restored, _ = checkpoints.restore(2, {"w": np.zeros(3)})
    checkpoints.close()
    np.testing.assert_array_equal(restored["w"], np.ones(3))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int32", "uint32", "bool", "int8"])
def test_fingerprints_see_every_bit(dtype):
    """Of any type, wherever it is flipped."""
    values = np.random.default_rng(0).integers(0, 2, 60).astype(jnp.dtype(dtype))
    whole = fingerprint({"x": jnp.asarray(values)})
    raw = values.view(np.uint8)
    for place in range(raw.size):
        for bit in (0,) if dtype == "bool" else (0, 3, 7):
            changed = raw.copy()
            changed[place] ^= 1 << bit
            assert fingerprint({"x": jnp.asarray(changed.view(values.dtype))}) != whole
    swapped = values[::-1].copy()
    assert fingerprint({"x": jnp.asarray(swapped)}) != whole


def command(workdir: Path, changes: dict | None = None) -> list[str]:
    return ["train", "demo", "--workdir", str(workdir), *tiny.arguments({"checkpoint.keep_last": 3, **(changes or {})})]


@pytest.fixture(scope="module")
def finished(trm, tmp_path_factory):
    """A run with checkpoints at 6, 9 and 12."""
    workdir = tmp_path_factory.mktemp("finished") / "run"
    assert trm.run(*command(workdir)).code == 0
    assert tiny.steps(workdir) == [6, 9, 12]
    return workdir


def copy_of(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


def newest(workdir: Path) -> Path:
    return workdir / "checkpoints" / "12"


def empty_the_folder(step: Path) -> None:
    shutil.rmtree(step)
    step.mkdir()


def remove_everything_inside(step: Path) -> None:
    for file in step.rglob("*"):
        if file.is_file():
            file.unlink()


def change_a_number(step: Path) -> None:
    """A weight changed and saved again with the same description: only the fingerprint can tell."""
    with ocp.PyTreeCheckpointer() as writer:
        tree = writer.metadata(step / "state").item_metadata.tree
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        state = writer.restore(step / "state", restore_args=as_numpy)
        state["params"]["weights"]["lm_head"][3, 2] += 1e-3
        writer.save(step / "state", state, force=True)


DAMAGES = {
    "a truncated file": lambda step: faults.truncate(faults.largest_file(step)),
    "a flipped bit": lambda step: faults.flip_bit(faults.largest_file(step)),
    "a changed number": change_a_number,
    "a deleted file": lambda step: faults.largest_file(step).unlink(),
    "a deleted meta": lambda step: shutil.rmtree(step / "meta"),
    "a truncated meta": lambda step: faults.truncate(next((step / "meta").glob("meta*"))),
    "no state": lambda step: shutil.rmtree(step / "state"),
    "truncated metadata": lambda step: faults.truncate(step / "state" / "_METADATA"),
    "an empty folder": empty_the_folder,
    "empty folders": remove_everything_inside,
}


LESS_COMMON = ("a changed number", "truncated metadata", "an empty folder", "empty folders")


@pytest.mark.parametrize("damage", [pytest.param(d, marks=[pytest.mark.slow] * (d in LESS_COMMON)) for d in DAMAGES])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(finished, trm, tmp_path, damage):
    workdir = copy_of(finished, tmp_path)
    DAMAGES[damage](newest(workdir))
    result = trm.run(*command(workdir))
    assert result.code == 0, result.err
    folder = workdir / "checkpoints"
    greeting, damaged, going_on, evaluation = result.err.splitlines()
    assert damaged.startswith(f"checkpoint {folder}/12 is damaged (")
    assert damaged.endswith("going back to the one before it")
    assert going_on == "going on from step 9 of 12"
    assert (folder / "damaged-12").is_dir()
    tiny.assert_same_end(finished, workdir)


def test_a_score_that_cannot_be_read_is_no_score(finished, trm, tmp_path):
    workdir = copy_of(finished, tmp_path)
    faults.truncate(newest(workdir) / "metrics" / "metrics")
    result = trm.run("eval", workdir, "--checkpoint", "best")
    assert result.code == 0 and "\ncheckpoint 6 of" in result.out, result.err
    note = f"note: the score of checkpoint {workdir}/checkpoints/12 is damaged; it is not taken for best"
    assert note in result.out
    result = trm.run(*command(workdir))
    assert result.code == 0 and note in result.err, result.err
    tiny.assert_same_end(finished, workdir)


@pytest.mark.parametrize("content", [b"", b"[1]", b'{"exact_accuracy": null}', b"\xff"])
def test_the_best_is_among_those_with_a_score(tmp_path, content):
    checkpoints = Checkpoints(str(tmp_path), HEADLINE, policy(keep_last=3, keep_best=1))
    for step, score in enumerate((0.5, 0.9, 0.7), 1):
        checkpoints.save(step, {"w": np.full(3, step)}, {}, score)
    checkpoints.close()
    (tmp_path / "2" / "metrics" / "metrics").write_bytes(content)
    for how in (None, policy(keep_last=3, keep_best=1)):
        told = []
        checkpoints = Checkpoints(str(tmp_path), HEADLINE, how, told.append)
        assert checkpoints.best_step() == 3 and checkpoints.steps() == [1, 2, 3]
        checkpoints.close()
        assert told == [f"note: the score of checkpoint {tmp_path}/2 is damaged; it is not taken for best"]


@pytest.mark.slow
def test_a_model_without_a_puzzle_table_is_saved_and_restored(trm, tmp_path):
    """Orbax saves no array without elements."""
    run, without = tmp_path / "run", {"model.puzzle_emb_ndim": 0, "model.puzzle_emb_len": 0}
    assert tiny.train_here(run, without, stop=tiny.StopAfter(run, 5)).step < 12
    assert tiny.train_here(run, without).step == 12
    file = tmp_path / "model.safetensors"
    assert trm.run("export", run, file).code == 0
    result = trm.run("import", file, "--config", "demo", "--workdir", tmp_path / "imported", *tiny.arguments(without))
    assert result.code == 0, result.err
    scores = [trm.run("eval", tmp_path / name).out.splitlines()[1:] for name in ("run", "imported")]
    assert scores[0] == scores[1] and "exact accuracy" in scores[0][0]


def test_two_damaged_checkpoints(finished, trm, tmp_path):
    workdir = copy_of(finished, tmp_path)
    for step in (9, 12):
        faults.truncate(faults.largest_file(workdir / "checkpoints" / str(step)))
    result = trm.run(*command(workdir))
    assert result.code == 0, result.err
    _, first, second, going_on, _ = result.err.splitlines()
    assert "/12 is damaged" in first and "/9 is damaged" in second and going_on == "going on from step 6 of 12"
    tiny.assert_same_end(finished, workdir)


def test_when_all_are_damaged_nothing_is_touched(finished, trm, tmp_path):
    workdir = copy_of(finished, tmp_path)
    for step in (6, 9, 12):
        faults.flip_bit(faults.largest_file(workdir / "checkpoints" / str(step)))
    before = {file: file.read_bytes() for file in workdir.rglob("*") if file.is_file()}
    result = trm.run(*command(workdir))
    assert result.code == 2
    assert result.error_lines == [
        f"error: all checkpoints in {workdir}/checkpoints are damaged (12, 9, 6); move the workdir away to start again"
    ]
    assert "Traceback" not in result.err
    assert {file: file.read_bytes() for file in workdir.rglob("*") if file.is_file()} == before


def test_eval_of_a_damaged_checkpoint_names_the_others(finished, trm, tmp_path):
    workdir = copy_of(finished, tmp_path)
    for file in newest(workdir).rglob("d/*"):  # all data files: only some hold what an evaluation reads
        faults.truncate(file)
    result = trm.run("eval", workdir)
    assert result.code == 2 and len(result.err.splitlines()) == 1
    assert result.err.startswith(f"error: checkpoint 12 of {workdir} is damaged (")
    assert "others: 6, 9 (--checkpoint STEP)" in result.err
    assert trm.run("eval", workdir, "--checkpoint", 9).code == 0
    # Reading sets nothing aside.
    assert tiny.steps(workdir) == [6, 9, 12]


@pytest.mark.parametrize("change", [{"model.hidden_size": 64}, {"model.dtype": "bfloat16"}, {"model.L_layers": 2}])
def test_checkpoints_of_another_model_are_refused(finished, trm, tmp_path, change):
    """Their folder moved into the workdir of another run."""
    workdir = tmp_path / "other"
    with claim(workdir, tiny.page(change)):
        shutil.copytree(finished / "checkpoints", workdir / "checkpoints")
    result = trm.run(*command(workdir, change))
    assert result.code == 2 and "Traceback" not in result.err
    array = {"model.L_layers": "ema/layers/1/attn/out"}.get(next(iter(change)), "carry/z_H")
    assert f"checkpoint {workdir}/checkpoints/12 is of another model: {array} is " in result.error_lines[0]
    assert tiny.steps(workdir) == [6, 9, 12]


def test_a_checkpoint_says_how_long_the_run_has_taken(finished):
    meta = json.loads((newest(finished) / "meta" / "metadata").read_text())
    assert meta["elapsed_s"] > 0 and len(meta["fingerprint"]) == len(tiny.state(finished, 12))


@pytest.mark.parametrize("which", ["7", "newest", "-1", "6.0"])
def test_a_checkpoint_that_is_not_there(finished, which):
    checkpoints = Checkpoints(str(finished / "checkpoints"), HEADLINE)
    with pytest.raises(InputError, match="there are 6, 9, 12"):
        pick_step(checkpoints, which)
    checkpoints.close()
