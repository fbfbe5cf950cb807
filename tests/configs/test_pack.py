"""Which runs may share one program."""

from tests import tiny
from trm_jax.configs.pack import groups, structure


def run(folder, steps=(), **changes):
    for step in steps:
        (folder / "checkpoints" / str(step)).mkdir(parents=True)
    return tiny.page({key.replace("__", "."): value for key, value in changes.items()}), folder


def shape(packs) -> list[list[str]]:
    return [[folder.name for _, folder in pack] for pack in packs]


def test_runs_that_differ_in_numbers_go_together_in_order(tmp_path):
    runs = [
        run(tmp_path / "a"),
        run(tmp_path / "wide", model__hidden_size=64),
        run(tmp_path / "b", seed=3, optim__lr=2e-3, optim__beta2=0.9, optim__ema_decay=0.5),
        run(tmp_path / "no_average", optim__ema_decay=0.0),
        run(tmp_path / "c", model__halt_exploration_prob=0.5, train__halt_exploration_end=0.1),
        run(tmp_path / "lion", optim__name="lion"),
    ]
    assert shape(groups(runs)) == [["a", "b", "c"], ["wide"], ["no_average"], ["lion"]]
    assert shape(groups(runs, most=2)) == [["a", "b"], ["wide"], ["no_average"], ["c"], ["lion"]]


def test_averages_that_are_kept_besides_belong_to_the_structure():
    """0.99 is one run's own average and another one's second: their states have other shapes."""

    def of(decay):
        return structure(tiny.page({"optim.ema_decay": decay, "optim.ema_also": "0,0.99"}))

    assert of(0.9) == of(0.95) != of(0.99)


def test_runs_go_together_that_are_equally_far(tmp_path):
    """checkpoint.every_steps is 3: a kill between the saves of two runs leaves them one interval apart."""
    runs = [
        run(tmp_path / "new"),
        run(tmp_path / "at9", steps=(6, 9)),
        run(tmp_path / "at6", steps=(3, 6)),
        run(tmp_path / "far", steps=(3, 12)),
        run(tmp_path / "also_new"),
        run(tmp_path / "also_at9", steps=(6, 9)),
    ]
    assert shape(groups(runs)) == [["new", "also_new"], ["at9", "at6", "also_at9"], ["far"]]
