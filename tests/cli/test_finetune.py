"""`trm finetune` of a tiny decoder on three tasks: an adapter, all weights, and a run that is stopped and goes on."""

import argparse
import json
import shutil

import jax
import numpy as np
import pytest

from trm_jax.cli.lm import mesh
from trm_jax.language import config, peft, weights
from trm_jax.models import decoder
from trm_jax.solvers.nvarc import vocabulary
from trm_jax.solvers.seen import require_base
from trm_jax.train import stopping
from trm_jax.train.stopping import StopRequest

CFG = decoder.Config(16, 32, 2, 2, 1, 16, 64, rope_theta=1e4, qk_norm=True, tied=True)
TASKS = {  # rows of one colour: swapped, copied, and turned
    "swap": [([[a, b]], [[b, a]]) for a, b in ((1, 2), (3, 4), (5, 6))],
    "copy": [([[a] * 3], [[a] * 3]) for a in (1, 2, 3)],
    "turn": [([[a, b, b]], [[a], [b], [b]]) for a, b in ((7, 8), (8, 9))],
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finetune")
    (folder / "tasks").mkdir()
    for name, pairs in TASKS.items():
        said = [{"input": one, "output": other} for one, other in pairs]
        (folder / "tasks" / f"{name}.json").write_text(json.dumps({"train": said[:-1], "test": said[-1:]}))
    params = jax.jit(decoder.init, static_argnums=1)(jax.random.key(0), CFG)
    vocabulary.write(folder / "model", CFG, params)
    return folder


def words(place, output, *more):
    given = ["finetune", place / "model", "--data", place / "tasks", "--output", output, "--batch", 4, "--lr", "0.01"]
    return [*given, "--steps", 60, "--mesh", "data=1", *more]


@pytest.fixture(scope="module")
def tuned(trm, place):
    result = trm.run(*words(place, place / "lora", "--lora-rank", 4))
    assert result.code == 0, result.err
    return result


def test_an_adapter_learns_and_the_base_stays(place, tuned):
    """A file that PEFT's layout fits, with a record of what was learned."""
    params = weights.load(place / "model", CFG)
    adapter, lora = peft.read(place / "lora", CFG, params)
    assert lora.rank == 4 and lora.scale == 2 and all(np.any(pair["b"]) for pair in adapter.values())
    record = json.loads((place / "lora" / "finetune.json").read_text())
    trained = record["trained_on"]
    assert len(record["losses"]) == 60 and (trained["name"], trained["tasks"]) == ("tasks", sorted(TASKS))
    assert len(trained["pairs"]) == 3  # but for their colours, the pairs of each are one
    assert record["losses"][0] == pytest.approx(np.log(16), abs=0.1)
    assert np.mean(record["losses"][-10:]) < 0.95 * record["losses"][0]
    assert f"trm ttt nvarc {place / 'model'} --adapter {place / 'lora'}" in tuned.err


class StopAfter(StopRequest):
    """A signal that comes when `most` steps are under way."""

    asked, most = 0, 23

    def __bool__(self) -> bool:
        self.asked += 1
        if self.asked > self.most:
            self.name = "SIGTERM"
        return super().__bool__()


def test_a_run_that_is_stopped_goes_on_to_the_same_numbers(trm, here, place, tuned, monkeypatch):
    given = words(place, place / "stopped", "--lora-rank", 4)
    with monkeypatch.context() as patch:
        patch.setattr(stopping, "StopRequest", StopAfter)
        result = here(*given)
    assert result.code == 75 and "stopped by SIGTERM and saved at step 23 of 60" in result.out, result.err
    assert not (place / "stopped" / "adapter_model.safetensors").exists()
    other = trm.run(*given, "--seed", 1)
    assert other.code == 2 and other.error_lines[0].endswith("holds work of another plan; give another --output")
    result = trm.run(*given)
    assert result.code == 0, result.err
    for name in ("adapter_model.safetensors", "adapter_config.json", "finetune.json"):
        assert (place / "stopped" / name).read_bytes() == (place / "lora" / name).read_bytes()


def test_devices_that_share_a_batch_go_on_to_the_same_numbers(here, place, tuned, monkeypatch):
    """Two of them, and in two parts: stopped after three steps of five, and not; first losses as one device has them,
    to 1e-5."""
    more = ("--steps", 5, "--mesh", "data=2", "--accumulate", 2)
    given = [words(place, place / name, "--lora-rank", 4, *more) for name in ("shared", "shared_stopped")]
    with monkeypatch.context() as patch:
        patch.setattr(stopping, "StopRequest", StopAfter)
        patch.setattr(StopAfter, "most", 3)
        assert here(*given[1]).code == 75
    assert [here(*words).code for words in given] == [0, 0]
    whole, stopped = (json.loads((words[5] / "finetune.json").read_text())["losses"] for words in given)
    assert whole == stopped
    alone = json.loads((place / "lora" / "finetune.json").read_text())["losses"]
    np.testing.assert_allclose(whole[0], alone[0], rtol=0, atol=1e-5)


def test_all_weights_are_a_model_of_their_own(trm, here, place, tuned):
    result = trm.run(*words(place, place / "full", "--lora-rank", 0))
    assert result.code == 0, result.err
    assert f"trm ttt nvarc {place / 'full'} --data" in result.err
    assert config.read(place / "full") == CFG
    before, after = (weights.load(place / name, CFG) for name in ("model", "full"))
    changed = jax.tree.map(lambda a, b: bool(np.any(np.asarray(a) != np.asarray(b))), before, after)
    assert all(jax.tree.leaves(changed))
    record = json.loads((place / "full" / "finetune.json").read_text())
    assert np.mean(record["losses"][-10:]) < 0.8 * record["losses"][0]
    record["trained_on"] = {"name": "before", "tasks": ["old"], "pairs": ["0123"]}  # what it learned counts on
    (place / "full" / "finetune.json").write_text(json.dumps(record))
    given = words(place, place / "again", "--lora-rank", 0, "--steps", 1)
    assert here(given[0], place / "full", *given[2:]).code == 0
    trained = json.loads((place / "again" / "finetune.json").read_text())["trained_on"]
    assert (trained["name"], trained["tasks"]) == ("tasks, before", sorted([*TASKS, "old"]))
    assert "0123" in trained["pairs"] and len(trained["pairs"]) > 1
    said = here("ttt", "nvarc", place / "full", "--adapter", place / "lora", "--data", place / "tasks")
    assert said.code == 2 and "has seen what it is asked" in said.err
    asked = ["--data", place / "tasks", "--allow-contaminated", "--workdir", place / "ttt"]
    said = here("ttt", "nvarc", place / "full", "--adapter", place / "lora", *asked)
    assert said.code == 2 and "was trained beside another model than" in said.err


def test_an_adapter_from_elsewhere_that_names_another_base_has_a_note(place, tuned, tmp_path):
    shutil.copytree(place / "lora", tmp_path / "lora")
    (tmp_path / "lora" / "finetune.json").unlink()
    settings = json.loads((tmp_path / "lora" / "adapter_config.json").read_text())
    for base, note in ((f"org/{(place / 'model').name}", ""), ("org/Other-7B", "was trained beside org/Other-7B")):
        said = json.dumps(settings | {"base_model_name_or_path": base})
        (tmp_path / "lora" / "adapter_config.json").write_text(said)
        found = require_base(tmp_path / "lora", place / "model")
        assert note in found and bool(note) == bool(found)


def test_devices_that_share_weights_share_texts_too():
    for rows, data in ((4, 1), (8, 2), (12, 1)):
        sizes = mesh(argparse.Namespace(mesh=[("fsdp", 4)]), rows).shape
        assert sizes == {"data": data, "fsdp": 4, "tensor": 1}


def test_what_is_wrong_is_said_in_a_line(refused, place):
    assert "leaves no gradient" in refused(*words(place, place / "x", "--lora-rank", 0, "--quantise", "int8"))
    assert "lr is" in refused(*words(place, place / "x", "--lr", "0"))
    assert "does not exist" in refused(*words(place, place / "x")[:3], place / "none", "--output", place / "x")
    assert "belongs to no model" in refused(*words(place, place / "x", "--adapter", place / "lora"))
    assert "--accumulate 3 does not divide --batch 4" in refused(*words(place, place / "x", "--accumulate", 3))
    assert "8 devices cannot be shared so" in refused(*words(place, place / "x", "--mesh", "data=9"))
    assert "give another folder" in refused(*words(place, place / "model"))
    assert not (place / "x").exists()
    said = refused(*words(place, place / "y", "--limit", 17))
    assert said.startswith("task copy: the shortest text has 18 tokens") and "give a higher --limit" in said


def test_a_rate_that_is_too_high_ends_the_run(trm, place):
    result = trm.run(*words(place, place / "lost", "--lora-rank", 4, "--lr", "1e38"))
    assert result.code == 1 and "is not finite; give a lower --lr" in result.error_lines[0]
    assert not (place / "lost" / "adapter_model.safetensors").exists()
