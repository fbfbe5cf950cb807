"""ARC on several processes: every one collects all answers, so that votes do not depend on how many there are."""

import json

import numpy as np
import pytest

from tests import tiny


@pytest.mark.parametrize("count", [2, pytest.param(8, marks=pytest.mark.slow)])
def test_votes_are_those_of_one_process(hosts, tmp_path, count):
    """One step of training, with a rate that moves nothing an answer could hang on; 24 examples, an uneven batch."""
    draw = np.random.default_rng(0)
    (tmp_path / "tasks").mkdir()
    for number in range(4):
        pairs = [{k: draw.integers(0, 3, (1, 2)).tolist() for k in ("input", "output")} for _ in range(3)]
        (tmp_path / "tasks" / f"t{number}.json").write_text(json.dumps({"train": pairs[:2], "test": pairs[2:]}))
    changes = {"data.task": "arc", "data.path": str(tmp_path), "data.train_sets": "tasks", "data.test_set": "tasks"}
    changes |= {"data.augmentations": 5, "data.side": 3, "train.steps": 1, "eval.every_steps": 1, "eval.batch_size": 16}
    found = []
    for processes in (1, count):
        run = tmp_path / str(processes)
        hosts.must_finish(processes, run, changes)
        (record,) = tiny.records(run, "eval")
        found.append(
            {name: value for name, value in record.items() if "pass@" in name or name in ("count", "accuracy")}
        )
    assert found[0]["count"] == 24 and any(name == "pass@2" for name in found[0])
    assert found[1] == {name: pytest.approx(value, abs=1e-4) for name, value in found[0].items()}
