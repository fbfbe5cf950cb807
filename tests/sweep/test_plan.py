"""Which runs, in which order, in which folders, with which commands."""

import shlex
from pathlib import Path

import pytest

from trm_jax.configs import registry
from trm_jax.configs.registry import Experiment, Group
from trm_jax.errors import InputError
from trm_jax.sweep.plan import parse_seeds, plan, run_names
from trm_jax.sweep.run import REFUSED, WAITING

ROOT = Path("runs")


@pytest.fixture
def catalogue(monkeypatch):
    """Experiments of a group whose centre is `baseline`, and one that cannot be built."""
    members = (
        Experiment("size_a", "small", {"model.hidden_size": 256}, "baseline"),
        Experiment("size_b", "the centre", {}, "baseline"),
        Experiment("size_c", "its other name", {}, "size_b"),
        Experiment("size_odd", "heads do not divide it", {"model.hidden_size": 255, "model.mlp_t": False}, "baseline"),
    )
    known = {e.name: e for e in (*members, Experiment("baseline", "all defaults", {"seed": 7}))}
    declared = known, {"size": Group("size", "how large?", ("model.hidden_size",), members)}
    monkeypatch.setattr(registry, "_declared", lambda: declared)


def labels(*names, **how) -> list[str]:
    return [run.label for run in plan(names, ROOT, **how)]


@pytest.mark.parametrize(
    "text, seeds", [("0", (0,)), ("0,1,2", (0, 1, 2)), ("0-2", (0, 1, 2)), ("5,0-1,1,7-7", (5, 0, 1, 7))]
)
def test_seeds(text, seeds):
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", ",", "a", "1.5", "-1", "1-", "1-2-3", "3-1", "0,,1", "²"])
def test_seeds_that_are_none(text):
    with pytest.raises(InputError, match="--seeds .* write whole numbers or ranges, for example"):
        parse_seeds(text)


def test_far_too_many_seeds():
    with pytest.raises(InputError, match="more than 1000"):
        parse_seeds("0-99999999999")


def test_seeds_that_would_repeat_others():
    """jax.random.key takes 32 bits: seed 2**32 would be seed 0 again."""
    assert parse_seeds(str(2**32 - 1)) == (2**32 - 1,)
    with pytest.raises(InputError, match="--seeds is 4294967296; a seed is a whole number from 0 to 4294967295"):
        parse_seeds("0,4294967295-4294967296")


def test_the_baseline_comes_first_and_aliases_run_once(catalogue):
    assert run_names(["size_a", "size_b", "size_c"]) == ["baseline", "size_a"]
    assert labels("size_a", "size_b", "size_c") == ["baseline", "size_a"]
    assert labels("size_c") == ["baseline"]


def test_every_experiment_runs_once_before_any_runs_twice(catalogue):
    runs = plan(["size_a", "baseline"], ROOT, seeds=(0, 3))
    assert [run.label for run in runs] == ["baseline-seed0", "size_a-seed0", "baseline-seed3", "size_a-seed3"]
    assert [run.config.seed for run in runs] == [run.seed for run in runs] == [0, 0, 3, 3]


def test_without_seeds_the_configs_own(catalogue):
    [run] = plan(["baseline"], ROOT)
    assert (run.label, run.seed, run.config.seed) == ("baseline", 7, 7)
    [run] = plan(["baseline"], ROOT, changes={"seed": "9"})
    assert (run.label, run.seed) == ("baseline", 9)


def test_local_runs_have_folders_of_their_own(catalogue):
    """As `trm train --local` has: the real run must find its own free."""
    [run] = plan(["size_a"], ROOT, local=True, seeds=(1,))
    assert run.label == "size_a_local-seed1" and run.config.train.steps == 30


def test_the_command_means_the_very_same_settings(catalogue):
    from trm_jax.cli.arguments import changes
    from trm_jax.cli.main import parser

    [run] = plan(["size_a"], ROOT, seeds=(4,), changes={"optim.lr": "3e-4", "data.path": "a b"}, local=True)
    args = parser().parse_args(shlex.split(shlex.join(run.arguments)))
    assert (args.name, args.local, args.workdir) == ("size_a", True, run.folder)
    assert changes(args) == {"optim.lr": "3e-4", "data.path": "a b", "seed": "4"}


def test_one_that_cannot_be_built_does_not_keep_the_others(catalogue):
    runs = plan(["size_a", "size_odd"], ROOT)
    assert [run.state for run in runs] == [WAITING, REFUSED]
    assert "size" in runs[1].error and runs[1].config is None


def test_settings_that_fit_none_are_refused_at_once(catalogue):
    with pytest.raises(InputError, match="unknown setting 'optim.lrr'.*optim.lr"):
        plan(["size_a", "baseline"], ROOT, changes={"optim.lrr": "1"})
    with pytest.raises(InputError, match="optim.lr is -1.0"):
        plan(["size_a", "baseline"], ROOT, changes={"optim.lr": "-1"})


def test_seeds_given_twice(catalogue):
    with pytest.raises(InputError, match="--seeds and --set seed=... contradict each other"):
        plan(["size_a"], ROOT, seeds=(0,), changes={"seed": "1"})
