"""The catalogue of experiments."""

import re

import pytest

from trm_jax.configs import registry, resolve
from trm_jax.configs.defaults import defaults
from trm_jax.errors import InputError
from trm_jax.models import params

NAMES = list(registry.catalogue())


@pytest.mark.parametrize("name", NAMES)
def test_every_experiment_can_be_built(name):
    page = registry.get(name)
    cfg = resolve.freeze(page)
    assert cfg.name == name == page.name and page.is_locked
    assert params.count(cfg.family.specs(cfg.model)["weights"]) > 0
    experiment = registry.catalogue()[name]
    assert experiment.summary and "\n" not in experiment.summary
    # Each change is one: an experiment says how it differs, not what it shares.
    base = registry.get(experiment.base) if experiment.base else defaults(page.data.task, page.model.family)
    base = resolve.override(base, {"model.family": page.model.family})  # whose settings begin at their defaults
    assert resolve.diff(page, base).keys() <= experiment.changes.keys()


@pytest.mark.parametrize("name", NAMES)
def test_every_experiment_has_a_debug_run(name):
    page = resolve.local(registry.get(name))
    cfg = resolve.freeze(page)
    assert cfg.train.steps == cfg.total_steps(64, 1.0) == 30 and cfg.train.batch_size == 32
    assert getattr(cfg.data, "source", "") != "hub"  # it needs no network
    assert params.count(cfg.family.specs(cfg.model)["weights"]) < 1_200_000  # with six layers
    original = resolve.freeze(registry.get(name))
    kept = (original.family, original.task, original.optim.name, getattr(original.model, "mlp_t", None))
    assert (cfg.family, cfg.task, cfg.optim.name, getattr(cfg.model, "mlp_t", None)) == kept
    assert getattr(cfg.data, "size", 0) == getattr(original.data, "size", 0)


def test_the_catalogue_has_what_was_promised():
    assert {"baseline", "baseline_768", "demo"} <= set(NAMES)
    assert len(set(NAMES)) == len(NAMES)


def test_a_name_twice_is_refused(tmp_path, monkeypatch):
    line = "from trm_jax.configs.registry import Experiment\nEXPERIMENTS = [Experiment('one', 'a run')]\n"
    for file in ("a.py", "b.py", "_c.py"):
        (tmp_path / file).write_text(line)
    monkeypatch.setattr(registry, "experiments_folder", lambda: tmp_path)
    with pytest.raises(InputError, match=r"'one' is declared twice, the second time in .*b\.py"):
        registry._declared.__wrapped__()


@pytest.mark.parametrize(
    "name, suggestion", [("basline", "baseline"), ("baseline-768", "baseline_768"), ("demoo", "demo")]
)
def test_unknown_names_get_the_nearest(name, suggestion):
    with pytest.raises(InputError, match=f"unknown experiment {re.escape(repr(name))}.*{suggestion}.*trm list"):
        registry.get(name)


@pytest.mark.parametrize("name, steps, every, lr", [("baseline", 8138, 813, 1e-4), ("baseline_768", 65104, 6510, 1e-4)])
def test_the_reference_budgets(name, steps, every, lr):
    """int(50000 * 1000 / batch) steps, an evaluation every 5000 epochs."""
    cfg = resolve.freeze(registry.get(name))
    assert cfg.total_steps(1000, 1.0) == steps
    assert cfg.eval_interval_steps(1000, 1.0, steps) == every
    assert cfg.evaluation_steps(1000, 1.0, steps) == range(every, 9 * every + 1, every)
    assert cfg.optim.lr == lr
    assert params.count(cfg.family.specs(cfg.model)["weights"]) == 5_028_866


def test_baseline_768_is_baseline_in_smaller_batches():
    assert resolve.diff(registry.get("baseline_768"), registry.get("baseline")).keys() == {
        "train.batch_size", "eval.batch_size",
    }  # fmt: skip
    assert resolve.diff(registry.get("baseline"), defaults()) == {}


def test_budgets_too_small_for_one_batch():
    cfg = resolve.freeze(resolve.override(defaults(), {"train.epochs": 6}))
    with pytest.raises(InputError, match="the budget of 6,000 examples is less than one batch of 6144"):
        cfg.total_steps(1000, 1.0)
    cfg = resolve.freeze(resolve.override(defaults(), {"eval.every_epochs": 6}))
    with pytest.raises(InputError, match="eval.every_epochs 6 of 1000 puzzles hold fewer"):
        cfg.eval_interval_steps(1000, 1.0, 8138)


def test_when_evaluations_happen():
    def interval(**changes):
        changes = {f"eval.{name}": value for name, value in changes.items()}
        return resolve.freeze(resolve.override(defaults(), changes)).eval_interval_steps(1000, 1.0, 8138)

    assert interval(every_steps=10) == 10  # wins over epochs
    assert interval(every_epochs=0) == 8138  # at the end only


def test_evaluations_that_do_not_divide_the_run():
    """Only what rounding has put off is left to the last step: shorter intervals that were asked for stay."""

    def steps(total: int, **changes) -> list[int]:
        cfg = resolve.freeze(resolve.override(defaults(), {key.replace("__", "."): v for key, v in changes.items()}))
        return [*cfg.evaluation_steps(1000, 1.0, total), total]

    assert steps(9, eval__every_steps=4) == [4, 8, 9]
    assert steps(8, eval__every_steps=4) == [4, 8]
    assert steps(3, eval__every_steps=4) == [3]
    assert steps(8, eval__every_steps=1) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert steps(8138, eval__every_epochs=0) == [8138]
    batch = {"train__batch_size": 300, "eval__every_epochs": 1}  # 3 batches an epoch, 100 puzzles left over
    assert steps(33, **batch, train__epochs=10) == [3, 6, 9, 12, 15, 18, 21, 24, 27, 33]
    assert steps(34, **batch, train__steps=34) == [3, 6, 9, 12, 15, 18, 21, 24, 27, 30, 34]


@pytest.mark.parametrize(
    "changes", [{"eval.every_steps": 1}, {"eval.every_epochs": 1, "train.batch_size": 1000, "data.train_puzzles": 1000}]
)
def test_more_evaluations_than_could_be_listed(changes):
    cfg = resolve.freeze(resolve.override(defaults(), {**changes, "train.steps": 10**9}))
    found = cfg.evaluation_steps(1000, 1.0, 10**9)
    assert len(found) == 10**9 - 1 and 123_456_789 in found
    assert 0 not in found and 10**9 not in found
