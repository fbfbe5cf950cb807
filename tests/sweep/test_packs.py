"""One process that serves several runs: each has an outcome of its own, and a culprit does not keep the others."""

import json

from trm_jax.sweep.pack import OUTCOME_FILE
from trm_jax.sweep.state import DIVERGED, DONE, FAILED, REFUSED, WAITING

# $1 is what a run by itself is to do or train-pack, $2 the file of the pack.
LAUNCH = ["sh", "-c", 'case $1 in train-pack) PACK=$2; eval "$SCRIPT";; *) eval "$1";; esac']
OUTCOME = 'echo \'{{"state": "{state}", "error": "{error}"}}\' > {folder}/{file}'


def says(shell, name: str, state: str, error: str = "") -> str:
    """The shell's line that writes the outcome of a run."""
    return OUTCOME.format(folder=shell.root / name, file=OUTCOME_FILE, state=state, error=error)


def sweep(shell, monkeypatch, scripts: dict[str, str], pack: str, **how):
    monkeypatch.setenv("SCRIPT", pack)
    entries = shell.sweep(scripts, units=[list(scripts)], launch=LAUNCH, **how)
    return {name: (entry.state, entry.exit_codes, entry.error) for name, entry in entries.items()}


def test_each_run_has_its_own_outcome(shell, monkeypatch):
    pack = "; ".join([says(shell, "a", DONE), says(shell, "b", DIVERGED, "not finite at step 3"), "echo hello; exit 1"])
    assert sweep(shell, monkeypatch, {"a": "exit 9", "b": "exit 9"}, pack) == {
        "a": (DONE, [1], ""),
        "b": (DIVERGED, [1], "not finite at step 3"),
    }
    file = shell.root / "packs" / "a+1.json"
    assert [one["workdir"] for one in json.loads(file.read_text())] == [str(shell.root / name) for name in "ab"]
    assert json.loads(file.read_text())[0]["config"]["optim"]["lr"] == 1e-4
    assert file.with_suffix(".log").read_text().splitlines()[1] == "hello"
    for name in "ab":
        said = (shell.root / name / "log.txt").read_text().splitlines()
        assert said[0].endswith(f"trm train-pack {file}") and said[1].endswith(str(file.with_suffix(".log")))


def test_only_what_is_left_is_tried_again(shell, monkeypatch):
    """The second process gets a pack of two: its file has another name."""
    first = f"{says(shell, 'a', DONE)}; exit 70"
    second = "; ".join(says(shell, name, DONE) for name in "bc")
    pack = f"case $PACK in */a+2.json) {first};; */b+1.json) {second};; esac"
    assert sweep(shell, monkeypatch, dict.fromkeys("abc", "exit 9"), pack) == {
        "a": (DONE, [70], ""),
        "b": (DONE, [70, 0], ""),
        "c": (DONE, [70, 0], ""),
    }


def test_the_last_try_is_each_on_its_own(shell, monkeypatch):
    """As when the pack is too large for the memory."""
    assert sweep(shell, monkeypatch, {"a": "exit 0", "b": "exit 9"}, "kill -9 $$") == {
        "a": (DONE, [-9, -9, 0], ""),
        "b": (FAILED, [-9, -9, 9], "exit code 9"),
    }


def test_a_pack_that_is_refused_is_taken_apart_to_find_out_why(shell, monkeypatch):
    scripts = {"a": "exit 0", "b": "echo 'error: it holds another run'; exit 2", "c": "exit 0"}
    assert sweep(shell, monkeypatch, scripts, "echo 'error: b holds another run'; exit 2") == {
        "a": (DONE, [2, 0], ""),
        "b": (REFUSED, [2, 2], "it holds another run"),
        "c": (DONE, [2, 0], ""),
    }
    # Nobody is called refused before it is known who is.
    assert [line for line in shell.lines if "refused" in line] == ["b: refused, it holds another run"]
    assert "a and 2 more: not together: b holds another run" in shell.lines


def test_a_refusal_while_the_sweep_is_stopped_accuses_nobody(shell, monkeypatch):
    stop = shell.stop
    entries = sweep(
        shell,
        monkeypatch,
        {"a": "exit 0", "b": "exit 0"},
        "trap '' TERM; while ! [ -e $PACK.go ]; do sleep 0.01; done; echo 'error: b holds another run'; exit 2",
        refresh=lambda: stop_and_go(shell, stop),
    )
    assert entries == {name: (WAITING, [2], "") for name in "ab"}


def stop_and_go(shell, stop) -> None:
    stop.name = "SIGTERM"
    (shell.root / "packs" / "a+1.json.go").touch()


def test_an_outcome_of_an_earlier_pack_does_not_count(shell, monkeypatch):
    for name in "ab":
        (shell.root / name).mkdir(parents=True)
        (shell.root / name / OUTCOME_FILE).write_text('{"state": "done"}')
    ends = sweep(shell, monkeypatch, {"a": "exit 0", "b": "exit 0"}, "exit 70", retries=0)
    assert ends == {name: (FAILED, [70], "exit code 70") for name in "ab"}


def test_a_pack_that_was_stopped_goes_on_together(shell, monkeypatch):
    pack = f"[ -e {shell.root}/once ] || {{ touch {shell.root}/once; exit 75; }}; " + "; ".join(
        says(shell, name, DONE) for name in "ab"
    )
    ends = sweep(shell, monkeypatch, {"a": "exit 9", "b": "exit 9"}, pack, retries=0)
    assert ends == {name: (DONE, [75, 0], "") for name in "ab"}
