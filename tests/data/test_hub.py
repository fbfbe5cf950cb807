"""The real hub client against a local HTTP server that speaks the part of the hub's protocol it needs."""

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from trm_jax.tasks.sudoku.csv_files import write_csv

COMMIT = "a" * 40
REPO = "someone/sudoku"


@pytest.fixture
def hub(tmp_path, boards_of):
    """(endpoint, requests seen, files, broken): a hub that holds one data set; `broken` may hold a status with which
    it begins each answer and breaks it off."""
    boards = boards_of(6)
    write_csv(tmp_path / "train.csv", boards.take(np.arange(40)))
    write_csv(tmp_path / "test.csv", boards.take(np.arange(40, 60)))
    files = {name: (tmp_path / name).read_bytes() for name in ("train.csv", "test.csv")}
    seen, broken = [], []

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.answer(body=False)

        def do_GET(self):
            self.answer(body=True)

        def answer(self, body):
            seen.append((self.command, self.path))
            prefix = f"/datasets/{REPO}/resolve/"
            if not self.path.startswith(prefix):
                return self.refuse("RepoNotFound")
            name = self.path.split("/")[-1]
            if name not in files:
                return self.refuse("EntryNotFound")
            content = files[name]
            if broken and self.command == "GET":
                return self.break_off(content)
            self.send_response(200)
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if body:
                self.wfile.write(content)

        def break_off(self, content):
            self.send_response(broken[0])
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[:10])
            self.close_connection = True

        def refuse(self, code):
            self.send_response(404)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", seen, files, broken
    server.shutdown()
    thread.join()
    server.server_close()


SCRIPT = """
import json, sys
from trm_jax.tasks.sudoku import SudokuConfig
from trm_jax.tasks.sudoku.source import load
from trm_jax.errors import InputError, OutOfReach
for settings in json.loads(sys.argv[1]):
    try:
        train, test = load(SudokuConfig(**settings))
        print(json.dumps([train.info.groups, len(test), test.digest]))
    except (InputError, OutOfReach) as error:
        print(f"{type(error).__name__}: {error}")
"""


def load_in_a_process(tmp_path, endpoint, *changes, **environment):
    """What loading says, a line for each of `changes` to the settings. The client reads its environment when it is
    imported, so each environment is a process of its own."""
    settings = {"source": "hub", "hub_repo": REPO, "size": 6, "train_puzzles": 0, "test_puzzles": 0}
    env = os.environ | {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "cache"), "HF_HUB_DISABLE_TELEMETRY": "1",
                        "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1", **environment}  # fmt: skip
    command = [sys.executable, "-c", SCRIPT, json.dumps([settings | change for change in changes or ({},)])]
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(command, env=env, cwd=root, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_both_files_are_fetched_verified_and_cached(tmp_path, hub, boards_of):
    endpoint, seen, files, _ = hub
    from trm_jax.tasks.sudoku.files import board_arrays

    expected = [40, 20, board_arrays(boards_of(6).take(np.arange(40, 60))).digest]
    (said,) = load_in_a_process(tmp_path, endpoint)
    assert json.loads(said) == expected
    assert {path.split("/")[-1] for method, path in seen if method == "GET"} == set(files)
    seen.clear()
    (said,) = load_in_a_process(tmp_path, endpoint, HF_HUB_OFFLINE="1")
    assert json.loads(said) == expected and seen == []


def test_what_the_hub_lacks_or_holds_wrong_is_one_clear_line(tmp_path, hub):
    endpoint, _, files, _ = hub
    lines = files["train.csv"].decode().splitlines()
    spoilt = lines[5].split(",")
    lines[5] = ",".join([spoilt[0], spoilt[1], lines[6].split(",")[2], spoilt[3]])
    files["train.csv"] = ("\n".join(lines) + "\n").encode()
    changes = ({"hub_repo": "no/such"}, {"train_file": "other.csv"}, {"hub_repo": "a/b/c"}, {})
    repo, file, name, row = load_in_a_process(tmp_path, endpoint, *changes)
    assert "no data set 'no/such'" in repo
    assert file.startswith("InputError:") and "no file other.csv" in file
    assert "not the name of a hub data set" in name
    assert "train.csv line 6: the answer disagrees" in row


# Out of reach, the client tries again for about twenty seconds before it gives up.
@pytest.mark.parametrize("offline", [pytest.param("0", marks=pytest.mark.slow), "1"])
def test_no_hub_in_reach(tmp_path, offline):
    (said,) = load_in_a_process(tmp_path, "http://127.0.0.1:9", HF_HUB_OFFLINE=offline)
    assert said.startswith("InputError: " if offline == "1" else "OutOfReach: cannot reach the hub")
    assert "data.source=generated" in said


@pytest.mark.slow
@pytest.mark.parametrize("status", [503, 200])
def test_a_hub_in_trouble_may_be_well_the_next_time(tmp_path, hub, status):
    """The client tries an answer that breaks off, or 503, again for some seconds."""
    endpoint, _, _, broken = hub
    broken.append(status)
    (said,) = load_in_a_process(tmp_path, endpoint)
    assert said.startswith("OutOfReach: ") and "data.source=generated" in said


def test_without_the_extra_the_pip_command_is_named(monkeypatch):
    from trm_jax.errors import InputError
    from trm_jax.tasks.sudoku import SudokuConfig
    from trm_jax.tasks.sudoku.source import load

    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(InputError, match=r"pip install 'trm_jax\[hub\]'"):
        load(dataclasses.replace(SudokuConfig(), source="hub"))
