"""Sudoku through the seam that every task has."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trm_jax import tasks
from trm_jax.errors import InputError

TASK = tasks.get("sudoku")
SMALL = TASK.Config(source="generated", size=4, train_puzzles=12, test_puzzles=6, extra_clues=2, augmentations=3)


def test_importing_it_is_cheap():
    """Every command does."""
    code = "import json, sys, trm_jax.tasks.sudoku; print(json.dumps(sorted(sys.modules)))"
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    heavy = {"numba", "PIL", "matplotlib", "jax", "grain", "ml_collections", "huggingface_hub"}
    assert not heavy & set(json.loads(done.stdout))


def test_what_the_settings_tell_is_what_the_data_say():
    train, test = TASK.load(SMALL)
    assert train.info == TASK.info(SMALL)
    assert len(test) == TASK.eval_size(SMALL) == 6
    assert TASK.load_eval(SMALL).digest == test.digest
    spec = TASK.batch_spec(SMALL)
    for batch in (train.batch(3, np.arange(5), seed=0, batch_size=5), test.rows(np.arange(5))):
        assert {name: (values.shape[1:], values.dtype) for name, values in batch.items()} == spec


@pytest.mark.parametrize(
    "change, size, groups",
    [({}, 422_786, 1000), ({"test_puzzles": 500, "train_puzzles": 0}, 500, 0), ({"source": "csv"}, 0, 1000),
     ({"hub_repo": "some/other"}, 0, 1000)],
)  # fmt: skip
def test_sizes_of_public_sets(change, size, groups):
    cfg = TASK.Config(**change)
    assert TASK.eval_size(cfg) == size and TASK.info(cfg).groups == groups


def test_the_local_settings_need_no_network():
    for source, wanted in (("hub", "generated"), ("csv", "csv")):
        cfg = TASK.Config(source=source)
        small = dataclasses.replace(cfg, **TASK.local(cfg))
        assert (small.source, small.train_puzzles, small.test_puzzles) == (wanted, 64, 64)


def test_scores_have_the_headline():
    test = TASK.load_eval(SMALL)
    batch = test.rows(np.arange(6))
    answers = batch["labels"].copy()
    answers[0, 0] = 0
    scores = TASK.finish(TASK.score(SMALL, answers, batch, np.arange(6) < 4))
    assert scores[TASK.headline] == 0.75 and scores["accuracy"] == pytest.approx(1 - 1 / 64)


def test_boards_are_read_checked_and_shown(tmp_path):
    batch = TASK.load_eval(SMALL).rows(np.arange(2))
    puzzle, answer = batch["inputs"][0], batch["labels"][0]
    both = TASK.read(SMALL, "\n".join(TASK.line(SMALL, row) for row in batch["inputs"]))
    np.testing.assert_array_equal(both, batch["inputs"])
    assert both.dtype == np.int32
    np.testing.assert_array_equal(TASK.read(SMALL, TASK.show(SMALL, puzzle, puzzle)), [puzzle])
    assert TASK.check(SMALL, puzzle, answer) == ()
    padding = np.where(np.arange(16) == 3, 0, answer)  # a model may answer PAD: nothing stands there
    assert "blank" in " ".join(TASK.check(SMALL, puzzle, padding)) and "." in TASK.show(SMALL, puzzle, padding)
    with pytest.raises(InputError, match="line 2: a board of 6x6, where 4x4 is asked for"):
        TASK.read(SMALL, "." * 16 + "\n" + "." * 36)
    TASK.png(SMALL, tmp_path / "a.png", puzzle, answer, caption="it")
    TASK.gif(SMALL, tmp_path / "a.gif", puzzle, np.stack([padding, answer]), q=np.array([0.1, 0.9]), halted_at=2)
    with Image.open(tmp_path / "a.png") as png, Image.open(tmp_path / "a.gif") as gif:
        assert png.format == "PNG" and gif.n_frames == 3


@pytest.mark.parametrize(
    "change, words",
    [({"source": "web"}, "data.source is 'web'"), ({"size": 8}, "data.size is 8"), ({"seed": -1}, "data.seed is -1"),
     ({"augmentations": -1}, "augmentations is -1"), ({"train_puzzles": -1}, "train_puzzles is -1"),
     ({"min_rating": 5, "max_rating": 4}, "no rating lies in"), ({"extra_clues": 82}, "a board has 81 cells"),
     ({"extra_clues": 1, "min_rating": 1}, "exclude each other"),
     ({"size": 16, "max_rating": 9}, "puzzles of 16x16 are not made by rating")],
)  # fmt: skip
def test_settings_that_are_none(change, words):
    with pytest.raises(InputError, match=words):
        TASK.Config(**change)
