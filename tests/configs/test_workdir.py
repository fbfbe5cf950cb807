"""Whose folder is it: the config in a workdir, and its lock."""

import json
import multiprocessing
import re
from pathlib import Path

import pytest

from tests import tiny
from trm_jax.configs import resolve
from trm_jax.configs.workdir import CONFIG_FILE, claim, load_config
from trm_jax.errors import InputError


def test_a_claimed_folder_knows_its_config(tmp_path):
    page = tiny.page({"optim.lr": 0.25, "data.path": "a folder"})
    with claim(tmp_path / "new" / "run", page):
        pass
    assert resolve.flatten(load_config(tmp_path / "new" / "run")) == resolve.flatten(page)


@pytest.mark.parametrize(
    "change",
    [
        {"checkpoint.every_steps": 7, "checkpoint.keep_last": 1, "checkpoint.keep_best": 0},
        {"log.every_steps": 1, "log.tensorboard": False},
        {"mesh.data": 1, "mesh.fsdp": 1},
        {"eval.batch_size": 4},
        {"name": "renamed"},
    ],
)
def test_how_it_is_run_and_watched_may_change(tmp_path, change):
    with claim(tmp_path, tiny.page()):
        pass
    with claim(tmp_path, tiny.page(change)):
        pass
    assert resolve.flatten(load_config(tmp_path)) == resolve.flatten(tiny.page(change))


FREE = (*resolve.FREE_TO_CHANGE, "data.task", "model.family")  # no other name of these two is known
FIXED = [key for key in resolve.flatten(tiny.page()) if not key.startswith(FREE)]


def other_value(key: str):
    old = resolve.flatten(tiny.page())[key]
    return not old if isinstance(old, bool) else old + "x" if isinstance(old, str) else old + 1


@pytest.mark.parametrize("key", FIXED)
def test_what_it_computes_may_not_change(tmp_path, key):
    """Every other setting makes another run, and the line names it with both values."""
    with claim(tmp_path, tiny.page()):
        pass
    old, new = resolve.flatten(tiny.page())[key], other_value(key)
    said = f"{tmp_path} holds another run: {key} is {old!r} there and {new!r} here; use another --workdir"
    with pytest.raises(InputError, match=re.escape(said)), claim(tmp_path, tiny.page({key: new})):
        pass
    assert resolve.flatten(load_config(tmp_path)) == resolve.flatten(tiny.page())


def test_settings_that_came_or_went_since(tmp_path):
    """A setting newer than the run has its default there; one that is no more makes it another run."""
    with claim(tmp_path, tiny.page()):
        pass
    saved = tiny.page().to_dict()
    del saved["train"]["loss"], saved["model"]["remat"]
    (tmp_path / CONFIG_FILE).write_text(json.dumps(saved))
    with claim(tmp_path, tiny.page()):
        pass
    assert resolve.flatten(load_config(tmp_path)) == resolve.flatten(tiny.page())

    (tmp_path / CONFIG_FILE).write_text(json.dumps(saved))
    said = "train.loss is 'stablemax' there and 'softmax' here"
    with pytest.raises(InputError, match=said), claim(tmp_path, tiny.page({"train.loss": "softmax"})):
        pass
    saved["train"]["gone"] = 3
    (tmp_path / CONFIG_FILE).write_text(json.dumps(saved))
    with pytest.raises(InputError, match="train.gone is 3 there and None here"), claim(tmp_path, tiny.page()):
        pass


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff\xfe\x00", b"[]", b"3", b'"text"', b'{"model": ', b'{"name": "mine", "scripts": {"test": "x"}}'],
)
def test_a_config_file_that_is_none(tmp_path, content):
    (tmp_path / CONFIG_FILE).write_bytes(content)
    for attempt in (lambda: load_config(tmp_path), lambda: claim(tmp_path, tiny.page()).__enter__()):
        with pytest.raises(InputError, match=re.escape(str(tmp_path / CONFIG_FILE))) as caught:
            attempt()
        assert "\n" not in str(caught.value)
    assert (tmp_path / CONFIG_FILE).read_bytes() == content


def test_a_config_file_of_something_else(tmp_path):
    (tmp_path / CONFIG_FILE).write_text('{"my": "web config"}')
    said = f"{tmp_path / CONFIG_FILE} is no config of a run; restore it or use another workdir"
    with pytest.raises(InputError, match=f"^{re.escape(said)}$"), claim(tmp_path, tiny.page()):
        pass


@pytest.mark.parametrize("name", ["metrics.jsonl", "run.json", "goodput.json", "curve.png", "checkpoints/3/x"])
@pytest.mark.parametrize("how", [{}, {"write_last": True}])
def test_files_that_a_run_would_take_for_its_own(tmp_path, name, how):
    """A run goes on from its checkpoints and replaces its other files: they must be of that run."""
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text("mine")
    first = name.partition("/")[0]
    said = f"{tmp_path} holds {first} but no config.json; restore it or choose another --workdir"
    with pytest.raises(InputError, match=re.escape(said)), claim(tmp_path, tiny.page(), **how):
        pass
    assert (tmp_path / name).read_text() == "mine" and not (tmp_path / CONFIG_FILE).exists()


def test_files_that_do_not_make_it_a_run(tmp_path):
    """What a sweep, a kill before the config was written or a broken-off import leaves; and files of a person."""
    half = tmp_path / "checkpoints" / "0.orbax-checkpoint-tmp"
    half.mkdir(parents=True)
    for name in ("log.txt", ".lock", ".config.json.7.tmp", "notes.md"):
        (tmp_path / name).write_text("")
    with claim(tmp_path, tiny.page()):
        pass
    assert resolve.flatten(load_config(tmp_path)) == resolve.flatten(tiny.page())


@pytest.mark.parametrize("content", ['{"model": {"hiden_size": 3}}', '{"model": 3}', '{"seed": "x"}'])
def test_a_config_file_with_settings_that_are_none(tmp_path, content):
    (tmp_path / CONFIG_FILE).write_text(content)
    with pytest.raises(InputError):
        load_config(tmp_path)
    with pytest.raises(InputError), claim(tmp_path, tiny.page()):
        pass


def test_a_folder_in_a_folder_whose_name_is_not_utf8(tmp_path, monkeypatch):
    (tmp_path / "caf\udce9").mkdir()
    monkeypatch.chdir(tmp_path / "caf\udce9")
    for attempt in (lambda: load_config(Path("run")), lambda: claim(Path("run"), tiny.page()).__enter__()):
        with pytest.raises(InputError, match="the name is not UTF-8"):
            attempt()
    assert not Path("run").exists()


def test_a_folder_without_a_run(tmp_path):
    with pytest.raises(InputError, match="is not a run .* trm train demo --workdir"):
        load_config(tmp_path)
    with pytest.raises(InputError, match="is not a run"):
        load_config(tmp_path / "absent")


def _claim_in_another_process(folder, answer):
    try:
        with claim(folder, tiny.page()):
            answer.send("claimed")
    except InputError as error:
        answer.send(str(error))


def test_two_processes_cannot_work_in_one_folder(tmp_path):
    def other():
        ours, theirs = multiprocessing.get_context("spawn").Pipe()
        process = multiprocessing.get_context("spawn").Process(
            target=_claim_in_another_process, args=(tmp_path, theirs)
        )
        process.start()
        answer = ours.recv()
        process.join()
        return answer

    with claim(tmp_path, tiny.page()):
        assert other() == f"another process is working in {tmp_path}; wait for it or use another --workdir"
    assert other() == "claimed"
