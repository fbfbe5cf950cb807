"""Runs that version 0.1.0 left: their arrays are cut otherwise, and their checkpoints hold sums of metrics as well."""

import json
import shutil
import tarfile

import numpy as np
import pytest

from tests import tiny
from trm_jax.configs.resolve import flatten


@pytest.fixture
def old_run(golden_folder, tmp_path):
    """(folder of a run that was stopped at step 9 of 12, the changes of `tiny` that it was made with)."""
    with tarfile.open(golden_folder / "run_0.1.0.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    workdir = tmp_path / "old_run"
    saved = flatten(json.loads((workdir / "config.json").read_text()))
    here = flatten(tiny.page())
    return workdir, {k: v for k, v in saved.items() if k != "name" and here.get(k) != v}


def test_it_goes_on_to_the_end_that_its_own_version_reached(old_run):
    """Within float32 rounding: the step is another program, and a table of one token is summed in another order."""
    workdir, changes = old_run
    lines = []
    assert tiny.train_here(workdir, changes, lines=lines).step == 12
    assert any(line.startswith("going on from step 9 of 12") for line in lines)
    end = np.load(workdir / "end.npz")
    here = tiny.state(workdir, 12)
    for name in end.files:
        there = end[name]
        if there.dtype != np.float32:
            np.testing.assert_array_equal(here[name], there, err_msg=name)
            continue
        # Three steps at a rate below 12e-6: a sign that rounding decides moves a weight by at most 7e-5. Latents, up to
        # 2.5 large, are within the same share of their largest: how far they move depends on the processor's rounding.
        bound = 1e-4 * (np.abs(there).max() if name.startswith("carry/") else 1)
        np.testing.assert_allclose(here[name].reshape(there.shape), there, rtol=0, atol=bound, err_msg=name)


def test_one_of_another_model_is_refused(old_run, trm):
    workdir, changes = old_run
    wide = json.loads((workdir / "config.json").read_text())
    wide["model"]["hidden_size"] = 16
    (workdir / "config.json").write_text(json.dumps(wide))
    before = sorted(p.name for p in (workdir / "checkpoints").iterdir())
    result = trm.run("train", "demo", "--workdir", workdir, *tiny.arguments(changes | {"model.hidden_size": 16}))
    assert result.code == 2 and "is of another model" in result.error_lines[0]
    assert sorted(p.name for p in (workdir / "checkpoints").iterdir()) == before


def test_it_is_evaluated_and_exported(old_run, trm, tmp_path):
    workdir, _ = old_run
    assert trm.run("eval", workdir, "--max-examples", "4").code == 0
    assert trm.run("export", workdir, tmp_path / "old.safetensors").code == 0
    shutil.rmtree(workdir)
