"""Runs of `trm ttt` as processes that are killed at random moments, and begun anew each time."""

import json
import random
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from trm_jax.models import decoder
from trm_jax.solvers import run
from trm_jax.solvers.nvarc import vocabulary

KILLS = 4
HOW = {
    "marc": "--puzzles 4 --lora-rank 2 --lr 0.01 --limit 300".split(),
    "nvarc": "--permutations 1 --lora-rank 16 --lr 0.01 --views 1 --probability 0.002".split(),
}


@pytest.fixture
def model(request, tiny_model, tmp_path):
    if request.node.callspec.params["recipe"] == "marc":
        return tiny_model
    cfg = decoder.Config(16, 16, 1, 2, 1, 8, 16, rope_theta=1e4, qk_norm=True, tied=True)
    vocabulary.write(tmp_path / "model", cfg, jax.jit(decoder.init, static_argnums=1)(jax.random.key(2), cfg))
    return tmp_path / "model"


@pytest.mark.slow
@pytest.mark.parametrize("recipe", HOW)
def test_a_run_that_is_killed_ends_as_if_it_had_not_been(recipe, model, kept, tmp_path):
    """The moments are spread over the time that the whole run took."""
    (tmp_path / "set").mkdir()
    for number in range(6):
        grids = np.random.default_rng(number).integers(0, 10, (3, 2, 2))
        pairs = [{"input": grid.tolist(), "output": grid[::-1].tolist()} for grid in grids]
        (tmp_path / "set" / f"t{number}.json").write_text(json.dumps({"train": pairs[:2], "test": pairs[2:]}))
    words = [sys.executable, "-m", "trm_jax", "ttt", recipe, model, "--data", tmp_path / "set", "--tasks-at-once", "2"]

    def start(folder: str) -> subprocess.Popen:
        given = [str(word) for word in (*words, "--workdir", tmp_path / folder, *HOW[recipe])]
        return subprocess.Popen(given, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    assert start("warm").wait() == 0  # compiles; what is compiled is kept
    began = time.monotonic()
    assert start("whole").wait() == 0
    took, rng, deaths = time.monotonic() - began, random.Random(0), 0
    for _ in range(KILLS):
        process = start("killed")
        time.sleep(rng.uniform(0.2, 1.0) * took)
        process.kill()
        deaths += process.wait() != 0
    assert deaths and start("killed").wait() == 0
    assert kept(tmp_path / "killed") == kept(tmp_path / "whole")
    assert len(list((tmp_path / "killed" / run.ADAPTERS).iterdir())) == 6
