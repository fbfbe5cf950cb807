"""`trm sweep` before it starts anything: what it would run, and what it refuses. (Real sweeps: tests/sweep.)"""

import json
import shlex

import pytest

from trm_jax.configs import registry, resolve
from trm_jax.configs.registry import Experiment
from trm_jax.storage.output import owned


def test_a_dry_run_shows_the_runs_in_order_and_leaves_nothing(here, tmp_path):
    result = here("sweep", "sudoku?", "demo", "--seeds", "0-1", "--set", "optim.lr=3e-4", "--local", "--dry-run")
    assert result.code == 0, result.err
    lines = result.out.splitlines()
    names = ["demo", "sudoku6", "sudoku4"]
    assert lines[:-1:2] == [
        f"{number} {name}_local-seed{number // 4}: waiting" for number, name in enumerate([*names, *names], 1)
    ]
    assert lines[1] == ("  trm train demo --local --set optim.lr=3e-4 seed=0 --workdir runs/demo_local-seed0")
    assert lines[-1] == "next: trm sweep 'sudoku?' demo --seeds 0-1 --set optim.lr=3e-4 --local"
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_knows_what_is_done_begun_and_missing(here, tmp_path):
    """By what lies in the folders: demo has 1600 steps."""
    for seed, step in ((0, 1600), (1, 500)):
        folder = tmp_path / "runs" / f"demo-seed{seed}"
        folder.mkdir(parents=True)
        config = resolve.override(registry.get("demo"), {"seed": seed})
        (folder / "config.json").write_text(resolve.to_json(config))
        (folder / "run.json").write_text('{"total_steps": 1600}')
        (folder / "metrics.jsonl").write_text(
            json.dumps({"kind": "eval", "step": step, "exact_accuracy": 0.5, "count": 8}) + "\n"
        )

    def states(*arguments) -> list[str]:
        result = here("sweep", "demo", "--dry-run", *arguments)
        assert result.code == 0, result.err
        return [line.split(maxsplit=1)[1] for line in result.out.splitlines()[:-1:2]]

    assert states("--seeds", "0-2") == ["demo-seed0: done", "demo-seed1: stopped", "demo-seed2: waiting"]
    # The folder holds a run of other settings: not this one, and its training will say so.
    assert states("--seeds", "0", "--set", "optim.lr=5e-4") == ["demo-seed0: stopped"]


def test_the_commands_of_a_dry_run_work_as_they_stand(here, tmp_path):
    from trm_jax.cli.main import parser

    result = here("sweep", "demo", "--root", tmp_path / "a b", "--set", "data.path=it's", "--dry-run")
    command = shlex.split(result.out.splitlines()[1])
    assert parser().parse_args(command[1:]).workdir == tmp_path / "a b" / "demo"
    assert "data.path=it's" in command


def test_aliases_are_named_and_run_once(here, monkeypatch):
    known = [
        Experiment("baseline", "all defaults"),
        Experiment("exp_a", "the centre", base="baseline"),
        Experiment("exp_b", "larger", {"model.hidden_size": 1024}, "baseline"),
        Experiment("exp_c", "the centre again", base="exp_a"),
    ]
    monkeypatch.setattr(registry, "_declared", lambda: ({e.name: e for e in known}, {}))
    result = here("sweep", "exp_", "--dry-run")
    assert result.err.splitlines() == ["note: baseline, run once, is also exp_a, exp_c"]
    assert [line for line in result.out.splitlines() if ": waiting" in line] == [
        "1 baseline: waiting",
        "2 exp_b: waiting",
    ]


def test_what_cannot_be_run_is_told_in_a_line_not_in_one_for_each_run(here):
    odd = here("sweep", "exp01", "--seeds", "0,1", "--set", "model.num_heads=3", "model.mlp_t=false", "--dry-run")
    assert odd.code == 0
    assert [line for line in odd.err.splitlines() if "exp01a" in line] == [
        "note: exp01a-seed0, exp01a-seed1 cannot be run: model.hidden_size 256 is not divisible by num_heads 3"
    ]


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["demmo"], "no experiment and no group matches 'demmo'. Did you mean demo"),
        (["demo", "--seeds", "a"], "--seeds 'a': write whole numbers or ranges"),
        (["demo", "--seeds", ""], "--seeds '': write whole numbers or ranges"),
        (["demo", "--set", "optim.lrr=1"], "unknown setting 'optim.lrr'. Did you mean optim.lr"),
        (["demo", "--set", "optim.lr=-1"], "optim.lr is -1.0"),
        (["demo", "--set", "seed=1", "--seeds", "1"], "contradict each other"),
        (["demo", "--jobs", "0"], "argument --jobs: '0' is not a whole number of at least 1"),
        (["demo", "--retries", "-1"], "argument --retries: '-1' is not a whole number"),
        (["demo", "--retries", "x"], "argument --retries: 'x' is not a whole number"),
        (["demo", "--root", ""], "argument --root: the path is empty"),
        (["demo", "--root", "gs://bucket/runs"], "gs://bucket/runs is not on this machine"),
        ([], "the following arguments are required: NAME|GROUP|PATTERN"),
    ],
)
def test_bad_arguments_are_refused_before_anything_starts(refused, tmp_path, arguments, words):
    assert words in refused("sweep", *arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_second_sweep_in_one_root_is_refused(refused, tmp_path):
    with owned(tmp_path / "runs", lambda: None):
        assert "another process is working in runs; wait for it or use another --root" == refused("sweep", "demo")


def test_roots_that_cannot_be_used(refused, tmp_path):
    (tmp_path / "file").write_text("")
    assert refused("sweep", "demo", "--root", "file") == "file is a file; --root wants a folder"
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "sweep.json").write_text("{")
    assert refused("sweep", "demo").startswith("runs/sweep.json does not describe a sweep")


def test_a_sweep_in_which_nothing_can_be_built_for_one_run(here, monkeypatch):
    """The others' turn would come next; here there is none left to do."""
    known = [
        Experiment("good", "fine"),
        Experiment("odd", "heads do not divide it", {"model.hidden_size": 100, "model.mlp_t": False}),
    ]
    monkeypatch.setattr(registry, "_declared", lambda: ({e.name: e for e in known}, {}))
    result = here("sweep", "good", "odd", "--dry-run")
    assert result.code == 0
    [line] = [line for line in result.out.splitlines() if line.startswith("2 odd: refused (")]
    assert "num_heads" in line
