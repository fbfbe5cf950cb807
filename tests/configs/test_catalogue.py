"""The users' catalogue, row by row against their table, and its twin for a laptop."""

import json

import pytest

from trm_jax.configs import registry, resolve
from trm_jax.configs.defaults import defaults
from trm_jax.tasks.sudoku import source as sudoku

# Group, what its columns set, and per member: its name, the values, what the guide expects. "=" marks the centre.
TABLE = """
exp01 | model.hidden_size model.num_heads model.puzzle_emb_ndim | exact_accuracy
    exp01a    256 4 256     83
    exp01b    384 6 384     85
    exp01c    = 512 8 512   87
    exp01d    768 8 768     88
    exp01e    1024 8 1024   88
    exp01f    1536 8 1536   88
exp02a | model.L_cycles | exact_accuracy
    exp02a_01   2     82
    exp02a_02   4     85
    exp02a_03   = 6   87
    exp02a_04   8     87
    exp02a_05   10    86
    exp02a_06   12    85
exp02b | model.H_cycles | exact_accuracy
    exp02b_01   1     83
    exp02b_02   2     86
    exp02b_03   = 3   87
    exp02b_04   4     87
    exp02b_05   5     87
exp03 | model.L_layers model.L_cycles | exact_accuracy
    exp03a   1 12    87
    exp03b   = 2 6   87
    exp03c   3 4     87
    exp03d   4 3     86
    exp03e   6 2     85
exp04a | data.train_puzzles | exact_accuracy
    exp04a_100    100      75
    exp04a_250    250      80
    exp04a_500    500      85
    exp04a_1000   = 1000   87
    exp04a_2000   2000     87
    exp04a_5000   5000     87
exp04b | data.augmentations | exact_accuracy
    exp04b_0010   10       78
    exp04b_0100   100      83
    exp04b_0500   500      86
    exp04b_1000   = 1000   87
    exp04b_2000   2000     87
exp05 | model.halt_max_steps | exact_accuracy steps
    exp05_a   4      80 3.5
    exp05_b   8      84 6.2
    exp05_c   12     86 8.1
    exp05_d   = 16   87 9.5
    exp05_e   24     87 9.7
    exp05_f   32     87 9.8
exp06 | train.batch_size optim.lr optim.table_lr train.accumulation | exact_accuracy
    exp06_a   1536 5e-5 5e-5 1                             87
    exp06_b   3072 7.0710678118655e-5 7.0710678118655e-5 1 87
    exp06_c   = 6144 1e-4 1e-4 1                           87
    exp06_d   12288 1.4142135623731e-4 1.4142135623731e-4 1    87
    exp06_e   24576 2e-4 2e-4 2                            87
    exp06_f   49152 2.8284271247462e-4 2.8284271247462e-4 4    86
exp07 | model.dtype | exact_accuracy speed memory
    exp07a   "float32"      87 1.0 2
    exp07b   = "bfloat16"   87 1.8 1
    exp07c   "float16"      85 1.9 1
exp08 | optim.ema_decay | exact_accuracy
    exp08a   0         84
    exp08b   0.99      86
    exp08c   0.995     87
    exp08d   = 0.999   87
    exp08e   0.9995    87
exp09 | optim.name optim.beta2 | exact_accuracy
    exp09a   = "adam_atan2" 0.95   87
    exp09b   "adamw" 0.95          86
    exp09c   "adamw" 0.99          87
    exp09d   "adamw" 0.999         86
    exp09e   "lion" 0.99           85
exp10 | optim.lr optim.table_lr optim.min_lr_ratio | exact_accuracy
    exp10a   3e-5 3e-5 1     85
    exp10b   = 1e-4 1e-4 1   87
    exp10c   3e-4 3e-4 1     86
    exp10d   1e-4 1e-4 0.1   87
    exp10e   1e-4 1e-4 0.01  86
contrib01 | train.curriculum_epochs | exact_accuracy epochs
    contrib01_baseline     = 0    87 50000
    contrib01_curriculum   10000  87 35000
contrib02 | model.halt_exploration_prob train.halt_exploration_end | steps
    contrib02_baseline   = 0.1 -1    9.5
    contrib02_adaptive   0.3 0.05    7.2
"""


def _read_table():
    """({group: varied settings}, {member: (group, values, expected, is the centre)})."""
    varied, members, expects = {}, {}, []
    for line in TABLE.strip().splitlines():
        if "|" in line:
            group, settings, expects = (part.split() for part in line.split("|"))
            varied[group[0]] = settings
            continue
        name, *words = line.split()
        centre = words[0] == "="
        numbers = [json.loads(word) for word in words[centre:]]
        settings = varied[list(varied)[-1]]
        expected = dict(zip(expects, numbers[len(settings) :], strict=True))
        if "exact_accuracy" in expected:
            expected["exact_accuracy"] /= 100
        members[name] = list(varied)[-1], dict(zip(settings, numbers, strict=False)), expected, centre
    return varied, members


VARIED, MEMBERS = _read_table()
CENTRES = [name for name, (*_, centre) in MEMBERS.items() if centre]


def settings_of(name: str) -> dict:
    return {key: value for key, value in resolve.flatten(registry.get(name)).items() if key != "name"}


def distinct(names) -> int:
    return len({json.dumps(settings_of(name), sort_keys=True) for name in names})


def test_67_names_of_which_14_are_the_baseline():
    assert len(MEMBERS) == 67 and len(CENTRES) == 14
    assert [e.name for g in list(registry.groups().values())[:14] for e in g.experiments] == list(MEMBERS)
    assert list(registry.groups())[:14] == list(VARIED)
    full = ["baseline", *MEMBERS]
    assert distinct(full) == 54
    assert [name for name in full if registry.catalogue()[name].alias_of] == CENTRES
    assert {registry.run_name(name) for name in CENTRES} == {"baseline"}
    assert {registry.run_name(name) for name in full} == {"baseline", *(set(MEMBERS) - set(CENTRES))}
    assert settings_of("baseline") == {k: v for k, v in resolve.flatten(defaults()).items() if k != "name"}


@pytest.mark.parametrize("name", MEMBERS)
def test_a_row_of_the_table(name):
    group, values, expected, centre = MEMBERS[name]
    found = settings_of(name)
    different = {key: value for key, value in found.items() if value != settings_of("baseline")[key]}
    assert centre == (not different) and different.keys() <= values.keys()
    for key, value in values.items():
        assert found[key] == (value if isinstance(value, str) else pytest.approx(value, rel=1e-12))
    experiment = registry.catalogue()[name]
    assert experiment in registry.groups()[group].experiments
    assert dict(experiment.expects) == pytest.approx(expected)


@pytest.mark.parametrize(
    "name, steps", [("exp04a_100", 813), ("exp04a_250", 2034), ("exp04a_500", 4069), ("exp04a_2000", 16276),
                    ("exp04a_5000", 40690), ("exp06_a", 32552), ("exp06_b", 16276), ("exp06_d", 4069),
                    ("exp06_e", 2034), ("exp06_f", 1017)],
)  # fmt: skip
def test_budgets_in_epochs_are_literal(name, steps):
    cfg = resolve.freeze(registry.get(name))
    assert cfg.total_steps(cfg.data.train_puzzles, 1.0) == steps
    assert cfg.eval.batch_size == 6144
    assert cfg.train.batch_size // cfg.train.accumulation <= 12288


def test_the_groups_say_what_varies_in_them():
    for name, group in registry.groups().items():
        pages = [settings_of(experiment.name) for experiment in group.experiments]
        if group.varied[0] == "model.family":  # each of which has settings of its own
            assert all(len({page[key] for page in pages}) > 1 for key in group.varied) and group.question.endswith("?")
            continue
        varies = {key for key in pages[0] if len({json.dumps(page[key]) for page in pages}) > 1}
        # Which weights are evaluated besides changes nothing that is trained.
        assert varies - {"optim.ema_also"} == set(group.varied), name
        assert group.varied[0] in varies and group.question.endswith("?")


def test_words_select_groups_and_not_the_alternatives():
    def members(group):
        return [name for name, row in MEMBERS.items() if row[0] == group]

    for group in VARIED:
        assert registry.select([group]) == members(group)
        assert registry.select([f"mini_{group}"]) == [f"mini_{name}" for name in members(group)]
    assert registry.select(["exp02"]) == [*members("exp02a"), *members("exp02b")]
    assert registry.select(["exp04a_100"]) == ["exp04a_100"]


def test_the_alternatives_are_their_rows_with_a_shorter_share_of_warm_up():
    named = [name for name in registry.catalogue() if name.endswith(("_examples", "_share"))]
    assert len(named) == 6 and not {e.name for g in registry.groups().values() for e in g.experiments} & set(named)
    for name in named:
        row, kind = name.rsplit("_", 1)
        assert registry.alternatives(row) == [name]
        cfg, literal = resolve.freeze(registry.get(name)), resolve.freeze(registry.get(row))
        steps = cfg.total_steps(cfg.data.train_puzzles, 1.0)
        assert cfg.warnings(steps) == [] and literal.warnings(literal.total_steps(cfg.data.train_puzzles, 1.0))
        if kind == "examples":
            assert steps == 8138 and cfg.eval_interval_steps(cfg.data.train_puzzles, 1.0, steps) == 813
        assert (cfg.model, cfg.data) == (literal.model, literal.data)
        assert cfg.train.batch_size == literal.train.batch_size and cfg.optim.lr == literal.optim.lr
    assert registry.alternatives("exp01a") == []


def test_the_mini_catalogue_mirrors_the_full_one():
    minis = [(name, group) for name, group in registry.groups().items() if name.startswith("mini_")]
    assert [name for name, _ in minis] == [f"mini_{name}" for name in VARIED]
    names = ["mini_baseline", *(experiment.name for _, group in minis for experiment in group.experiments)]
    assert names[1:] == [f"mini_{name}" for name in MEMBERS]
    assert distinct(names) == 54
    aliases = [name.removeprefix("mini_") for name in names if registry.catalogue()[name].alias_of]
    # On a laptop float32 is what is fast and the centre; in the full catalogue bfloat16 is.
    assert sorted(aliases) == sorted({*CENTRES, "exp07a"} - {"exp07b"})
    for _, group in minis:
        assert group.varied == registry.groups()[group.name.removeprefix("mini_")].varied
        for experiment in group.experiments:
            assert registry.run_name(experiment.name) in ("mini_baseline", experiment.name)
            assert not experiment.expects  # the guide says nothing of 4x4 boards


@pytest.mark.parametrize("group", VARIED)
def test_the_mini_members_vary_as_the_full_ones_do(group):
    """Words are the same and numbers in the same order, in every setting that varies."""
    for key in VARIED[group]:
        full = [settings_of(e.name)[key] for e in registry.groups()[group].experiments]
        mini = [settings_of(e.name)[key] for e in registry.groups()[f"mini_{group}"].experiments]
        if isinstance(full[0], str):
            assert mini == full
        for i in range(len(full)):
            for j in range(len(full)):
                if full[i] < full[j] and not isinstance(full[0], str):
                    # Half of three L cycles and of two is one either way.
                    assert mini[i] < mini[j] or key == "model.L_cycles" and mini[i] == mini[j] == 1


def test_the_mini_data_can_be_made():
    """Few classes of 4x4 puzzles exist: the largest member still gets its own, and all are scored on one set."""
    pages = [resolve.freeze(registry.get(name)) for name in registry.select(["mini_exp04a", "mini_exp04b"])]
    sources = [sudoku.load(page.data) for page in pages]
    assert [train.info.groups for train, _ in sources] == [page.data.train_puzzles for page in pages]
    assert max(page.data.train_puzzles for page in pages) == 100
    assert len({test.digest for _, test in sources}) == 1 and len(sources[0][1].inputs) == 250


def test_every_mini_run_is_small():
    for name in registry.select(["mini_*"]):
        cfg = resolve.freeze(registry.get(name))
        steps = cfg.total_steps(cfg.data.train_puzzles, 1.0)
        evaluations = len(cfg.evaluation_steps(cfg.data.train_puzzles, 1.0, steps)) + 1
        assert cfg.data.source == "generated" and steps <= 3125 and 10 <= evaluations <= 13, name


def test_patterns_leave_out_other_ways_to_run_a_row():
    assert set(registry.select(["exp*"])) == {name for name in MEMBERS if name.startswith("exp")}
    assert registry.select(["exp04a_100_examples"]) == ["exp04a_100_examples"]
    assert registry.select(["exp06_*_share"]) == ["exp06_d_share", "exp06_e_share", "exp06_f_share"]
