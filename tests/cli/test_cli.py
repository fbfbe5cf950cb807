"""The command line: what it lists and shows, and what it says to input that is wrong."""

import errno
import importlib.util
import os
import re
import subprocess
import sys

import pytest

import trm_jax
from tests import tiny
from tests.processes import ROOT
from trm_jax.cli import listing
from trm_jax.cli.main import environment_problem
from trm_jax.configs import registry, resolve
from trm_jax.configs.workdir import claim


def test_the_version(here):
    result = here("--version")
    assert (result.code, result.out.strip()) == (0, f"trm_jax {trm_jax.__version__}")


@pytest.mark.parametrize(
    "command",
    ["", "train", "sweep", "plan", "report", "compare", "eval", "solve", "list", "show", "export", "import", "bench"],
)
def test_every_command_has_help_with_examples(here, command):
    result = here(*command.split(), "--help")
    assert result.code == 0 and "examples:" in result.out and f"trm {command}".strip() in result.out


def test_list_shows_every_experiment(here):
    result = here("list", "*")
    assert result.code == 0
    in_groups = {one.name for group in registry.groups().values() for one in group.experiments}  # shown by what differs
    for name, experiment in registry.catalogue().items():
        assert re.search(rf"^\s*{re.escape(name)}\s", result.out, re.MULTILINE), name
        assert name in in_groups or experiment.summary.split()[0] in result.out
    assert all(group.question in result.out for group in registry.groups().values())
    assert "next: trm show" in result.out


@pytest.mark.parametrize("pattern", ["baseline*", "768"])
def test_list_takes_a_pattern_or_a_part(here, pattern):
    result = here("list", pattern)
    assert result.code == 0 and "baseline_768" in result.out and "demo" not in result.out


def test_list_without_a_match(refused):
    said = "no experiment matches 'baselin_'. Did you mean baseline, baseline_768, mini_baseline?"
    assert refused("list", "baselin_") == said


def test_show_prints_every_setting_and_the_size(here):
    result = here("show", "baseline")
    for key, value in resolve.flatten(registry.get("baseline")).items():
        assert f"{key} = {value!r}\n" in result.out
    assert "# 5,028,866 trained parameters and a puzzle table of 512" in result.out


def test_show_the_difference(here):
    assert here("show", "baseline_768", "--diff", "baseline").out.splitlines() == [
        "eval.batch_size = 768   (baseline: 6144)",
        "train.batch_size = 768   (baseline: 6144)",
    ]
    assert here("show", "demo", "--set", "optim.lr=0.5", "--diff", "demo").out.startswith("optim.lr = 0.5   (demo: ")
    assert here("show", "demo", "--diff", "demo").out == "demo and demo have the same settings\n"


@pytest.mark.parametrize(
    "argv, words",
    [
        ((), "required: COMMAND"),
        (("trian",), "invalid choice: 'trian'"),
        (("train",), "required: name"),
        (("train", "demo", "--wrokdir", "x"), "--wrokdir"),
        (("show", "demi"), "unknown experiment 'demi'. Did you mean demo?"),
        (("show", "demo", "--diff", "basline"), "unknown experiment 'basline'. Did you mean baseline"),
        (("train", "baselin"), "unknown experiment 'baselin'. Did you mean baseline"),
        (("train", "demo", "--set", "model.hiden_size=3"), "'model.hiden_size'. Did you mean model.hidden_size"),
        (("train", "demo", "--set", "train.steps"), "write it as section.name=value"),
        (("train", "demo", "--set", "train.steps=1.5"), "train.steps='1.5' is not a int; its default is"),
        (("train", "demo", "--set", "optim.lr=fast"), "optim.lr='fast' is not a float; its default is 0."),
        (("train", "demo", "--set", "model.mlp_t=1"), "model.mlp_t='1' is not a bool"),
        (("train", "demo", "--set", "optim.name=adam"), "optim.name is 'adam'; choose one of"),
        (("train", "demo", "--set", "model.dtype=fp32"), "model.dtype is 'fp32'; choose one of float32"),
        (("train", "demo", "--set", "data.size=5"), "data.size is 5; choose one of 4, 6, 9"),
        (("train", "demo", "--set", "data.source=web"), "data.source is 'web'; choose one of generated, csv"),
        (("train", "demo", "--set", "data.test_puzzles=-1"), "test_puzzles"),
        (("train", "demo", "--set", "data.augmentations=-1"), "augmentations is -1"),
        (("train", "demo", "--set", "data.source=csv"), "data.source=csv needs data.path=FOLDER"),
        (("train", "demo", "--set", "data.source=csv", "data.path=no"), "trm data sudoku build --output-dir no"),
        (("train", "demo", "--set", "data.source=arrays", "data.path=no"), "no"),
        (("eval", "nowhere"), "nowhere is not a run"),
        (("eval", "nowhere", "--steps", "0"), "argument --steps: '0' is not a whole number of at least 1"),
        (("eval", "nowhere", "--batch-size", "x"), "argument --batch-size: 'x' is not"),
        (("solve", "nowhere", "--example"), "nowhere is not a run"),
        (("solve", "nowhere"), "give one of PUZZLE, a file, - for standard input, or --example"),
        (("solve", "nowhere", "1" * 16, "--example"), "give one of PUZZLE"),
        (("solve", "nowhere", "--example", "--limit", "-1"), "argument --limit"),
        (("export", "nowhere", "x.safetensors"), "nowhere is not a run"),
        (("import", "no.safetensors", "--config", "demo", "--workdir", "w"), "no.safetensors: no such file"),
    ],
)
def test_wrong_command_lines(refused, argv, words):
    assert words in refused(*argv)


SOLVED = "1234341221434321"


def rows(*questions: str, answer: str = SOLVED) -> str:
    return "source,question,answer,rating\n" + "".join(f"test,{question},{answer},0\n" for question in questions)


GOOD = "1234341221434..."
FILES = {
    "a wrong length": (rows(GOOD, GOOD[:-1]), "line 3"),
    "a wrong letter": (rows(GOOD, "y" + GOOD[1:]), "line 3"),
    "a digit too large": (rows(GOOD, "9" + GOOD[1:]), "line 3"),
    "a contradiction": (rows(GOOD, "11.............."), "line 3"),
    "two solutions": (rows(GOOD, "12.............."), "line 3"),
    "another answer": (rows(GOOD, "4" + "." * 15), "line 3"),
    "a missing column": (rows(GOOD).replace("question", "frage"), "line 1"),
    "no rows": (rows(), "holds no puzzle"),
    "nothing": ("", "train.csv"),
}


@pytest.mark.parametrize("what", FILES)
def test_files_of_puzzles_that_are_wrong(refused, tmp_path, what):
    """The line names the file and the row."""
    content, where = FILES[what]
    (tmp_path / "train.csv").write_text(content)
    (tmp_path / "test.csv").write_text(rows(GOOD))
    settings = {"data.source": "csv", "data.path": tmp_path, "data.train_puzzles": 0, "data.test_puzzles": 0}
    said = refused("train", "demo", "--workdir", tmp_path / "run", *tiny.arguments(settings))
    assert str(tmp_path / "train.csv") in said and where in said


def test_training_puzzles_that_are_tested(refused, tmp_path):
    for name in ("train.csv", "test.csv"):
        (tmp_path / name).write_text(rows(GOOD))
    settings = {"data.source": "csv", "data.path": tmp_path, "data.train_puzzles": 0, "data.test_puzzles": 0}
    said = refused("train", "demo", "--workdir", tmp_path / "run", *tiny.arguments(settings))
    assert "train.csv" in said and "test.csv" in said


@pytest.mark.skipif(importlib.util.find_spec("wandb") is not None, reason="wandb is installed")
def test_a_missing_extra_is_told_before_the_data_are_looked_for(refused, tmp_path):
    settings = tiny.arguments({"log.wandb_project": "mine", "data.source": "csv", "data.path": "absent"})
    said = "log.wandb_project is set but wandb is not installed; pip install 'trm_jax[wandb]'"
    assert refused("train", "demo", "--workdir", tmp_path / "run", *settings) == said
    assert not (tmp_path / "run").exists()


def test_a_batch_that_the_devices_cannot_share(refused, tmp_path):
    """There are eight in this process."""
    said = refused("train", "demo", "--workdir", tmp_path / "run", *tiny.arguments({"train.batch_size": 12}))
    assert said == "train.batch_size 12 is not divisible by the 8 devices that share it; nearest that is: 16"
    said = refused("train", "demo", "--workdir", tmp_path / "other", *tiny.arguments({"mesh.data": 3}))
    assert "does not fit 8 devices" in said


def test_the_workdir_of_another_config(refused, tmp_path):
    with claim(tmp_path / "run", tiny.page()):
        pass
    said = refused("train", "demo", "--workdir", tmp_path / "run", *tiny.arguments({"optim.lr": 0.5, "seed": 3}))
    assert f"{tmp_path}/run holds another run: optim.lr is 0.001 there and 0.5 here, seed is 0 there and 3 here" in said


def test_a_workdir_in_use(refused, tmp_path):
    with claim(tmp_path / "run", tiny.page()):
        said = refused("train", "demo", "--workdir", tmp_path / "run", *tiny.arguments())
    assert said.startswith(f"another process is working in {tmp_path}/run")


def test_a_broken_metrics_file(refused, tmp_path):
    with claim(tmp_path / "run", tiny.page()):
        pass
    content = '{"kind": "train", "step": 2}\nrubbish\n{"kind": "train", "step": 4}\n'
    (tmp_path / "run" / "metrics.jsonl").write_text(content)
    said = refused("train", "demo", "--workdir", tmp_path / "run", *tiny.arguments())
    where = f"{tmp_path}/run/metrics.jsonl line 2"
    assert said == f"{where} is no record; restore the file or start in another workdir"
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == content


def test_a_broken_config_file(refused, tmp_path):
    (tmp_path / "config.json").write_text("rubbish")
    for argv in (("train", "demo", "--workdir", tmp_path), ("eval", tmp_path)):
        assert refused(*argv).startswith(f"{tmp_path}/config.json is not JSON")


def test_a_run_without_checkpoints(refused, tmp_path):
    with claim(tmp_path, tiny.page()):
        pass
    for argv in (("eval", tmp_path), ("solve", tmp_path, "." * 16), ("export", tmp_path, tmp_path / "x.safetensors")):
        assert refused(*argv).startswith(f"no checkpoint in {tmp_path}/checkpoints; train first")


def chain(*errors) -> Exception:
    """The last of them, each raised while the one before was handled."""
    for outer, inner in zip(errors[1:], errors, strict=False):
        outer.__context__ = inner
    return errors[-1]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(28, "No space left on device", "/a/b"), "/a/b: the disk is full; "),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "the disk quota is used up; "),
        (chain(PermissionError(13, "Permission denied", "/x"), RuntimeError("saving failed")), "/x: no permission; "),
        (ValueError("RESOURCE_EXHAUSTED: Error writing [os_error_code='28'] [source='x']"), "the disk is full; "),
        (chain(ValueError("Error: Permission denied [os_error_code='13']"), KeyError("saving")), "no permission; "),
    ],
)
def test_errors_that_the_machine_is_to_blame_for(error, said):
    """By their number, also where TensorStore has put it into a text or another library has wrapped it."""
    assert environment_problem(error).startswith(said)


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(2, "No such file or directory", "/x"),
        ValueError("anything else"),
        *(
            RuntimeError(f"INTERNAL: libtpu.so: /dev/accel0: {os.strerror(n)}")
            for n in (1, 13, 20, 27, 28, 30, 36, 122)
        ),
        RuntimeError("NCCL: unhandled system error: Permission denied [os_error_code='13']"),
        ValueError("PERMISSION_DENIED: Permission denied"),
    ],
)
def test_errors_of_the_program_though_their_text_may_sound_like_the_machines(error):
    assert environment_problem(error) is None and environment_problem(chain(error, KeyError("x"))) is None


def test_a_problem_that_was_dealt_with_is_not_to_blame():
    try:
        try:
            raise PermissionError(13, "Permission denied", "/x")
        except OSError:
            raise ValueError("a fault of the program") from None
    except ValueError as error:
        assert environment_problem(error) is None


def test_a_fault_of_the_program_is_not_the_answer_no(here, monkeypatch):
    """1 means that training diverged, which nobody tries again."""

    for said in ("a fault of the program", "libtpu: Permission denied", "NCCL: No space left on device"):

        def fault(args, said=said):
            raise RuntimeError(said)

        monkeypatch.setattr(listing, "run_list", fault)
        result = here("list")
        assert result.code == 70 and "Traceback" in result.err
        assert result.err.splitlines()[-1] == f"RuntimeError: {said}"
    assert "70 a fault of the program" in here("--help").out


@pytest.mark.parametrize("command", ["list", "train --help"])
def test_a_reader_that_leaves_is_no_error(command):
    """`trm ... | head -1`, as a shell does it: the pipe is closed before the first line is written."""
    argv = [sys.executable, "-m", "trm_jax", *command.split()]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
        process.stdout.close()
        error = process.stderr.read()
    assert process.returncode == 0 and "Traceback" not in error, error


@pytest.mark.slow
def test_training_goes_on_unread(tmp_path):
    """`trm train ... 2>&1 | head -1`: nobody hears of the rest, and all of it is done."""
    argv = [sys.executable, "-m", "trm_jax", "train", "demo", "--workdir", tmp_path / "run", *tiny.arguments()]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT) as process:
        assert process.stdout.readline().startswith("demo: ")
        process.stdout.close()
    assert process.returncode == 0 and tiny.steps(tmp_path / "run")[-1] == 12


@pytest.mark.parametrize("command", ["train", "list"])
def test_training_outlives_its_readers(tmp_path, command):
    """The same without the training, for which work on a file stands; a command that only lists ends."""
    work = (
        "import sys, pathlib\nfrom trm_jax.cli import main\n"
        "def work():\n"
        "    for number in range(100_000): print('line', number, file=(sys.stdout, sys.stderr)[number % 2])\n"
        "    pathlib.Path(sys.argv[2]).write_text('done'); return 0\n"
        "main.main = work\nmain.entry()\n"
    )
    argv = [sys.executable, "-c", work, command, tmp_path / "file"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT) as process:
        assert process.stdout.readline().startswith("line")
        process.stdout.close()
    assert (process.returncode == 0) == (tmp_path / "file").exists() == (command == "train")


@pytest.mark.parametrize(("closed", "code"), [("<&- >&- 2>&-", 0), (">/dev/full", 2)])
def test_standard_streams_that_cannot_be_used(closed, code):
    command = f'exec "{sys.executable}" -m trm_jax list {closed}'
    result = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == code and "Traceback" not in result.stderr, result.stderr


def test_letters_that_the_terminal_lacks(tmp_path):
    (tmp_path / "one.csv").write_text("source,question,answer,rating\nmé,1.34341221434321,1234341221434321,0\n")
    argv = [sys.executable, "-m", "trm_jax", "data", "sudoku", "show", tmp_path / "one.csv"]
    environ = {**os.environ, "PYTHONIOENCODING": "ascii"}
    result = subprocess.run(argv, cwd=ROOT, env=environ, capture_output=True, text=True)
    assert result.returncode == 0 and "m?, rating 0" in result.stdout, result.stderr
