"""`trm list` and `trm show`: the catalogue as a person reads it."""

import json

import pytest

from tests import tiny
from trm_jax.configs import registry, resolve
from trm_jax.configs.workdir import claim


def rows_of(result) -> dict[str, str]:
    """The table's lines by experiment."""
    assert result.code == 0, result.err
    lines = [line for line in result.out.splitlines() if line]
    return {line.split()[0]: line for line in lines if line.split()[0] in registry.catalogue()}


def start_run(workdir, name, *, step=0, total_steps=100, evaluated=False, changes=None):
    with claim(workdir, resolve.override(registry.get(name), changes or {})):
        pass
    (workdir / "run.json").write_text(json.dumps({"total_steps": total_steps}))
    records = [{"kind": "train", "step": step}] + [
        {"kind": "eval", "step": step, "exact_accuracy": 0.5, "count": 8}
    ] * evaluated
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


def test_the_groups_fit_a_screen(here, tmp_path):
    """With how many of their runs are done: exp01c is the baseline, which is run once for both."""
    for name, changes in (("exp01a", {}), ("exp01a", {"seed": 1}), ("exp01b", {"optim.lr": 1e-2}), ("exp01c", {})):
        start_run(tmp_path / "runs" / f"{name}{len(changes)}", name, step=100, evaluated=True, changes=changes)
    result = here("list")
    lines = result.out.splitlines()
    assert result.code == 0 and len(lines) <= 32 and max(map(len, lines)) <= 100
    first = {line.split()[0]: line for line in lines}
    for name, group in registry.groups().items():
        if not name.startswith("mini_"):
            assert first[name].split()[1:6] == group.question.split()[:5]
    others = set(registry.catalogue()) - {e.name for g in registry.groups().values() for e in g.experiments}
    hidden = {
        "mini_baseline",
        *(name for name in others if name.endswith(("_examples", "_share"))),
        *(name for name in others if registry.catalogue()[name].base == "arc_transformer_high"),
    }
    assert others - hidden <= first.keys() and "mini_*" in first and not hidden & first.keys()
    assert first["exp01"].endswith("2 of 6") and first["exp02a"].endswith("1 of 6")
    assert first["mini_*"].endswith("0 of 54") and first["demo"].endswith("0 of 1")


def test_the_whole_catalogue_in_its_order(here):
    result = here("list", "*")
    assert list(rows_of(result)) == list(registry.catalogue())
    titles = {line.split()[0]: line for line in result.out.splitlines() if line}
    for name, group in registry.groups().items():
        assert titles[name].split()[1:4] == group.question.split()[:3]
    order = [result.out.index(f"\n{name} ") for name in ("baseline", "exp01", "contrib02", "mini_exp01", "demo")]
    assert order == sorted(order)


def test_a_group_whose_members_are_called_otherwise(here):
    assert list(rows_of(here("list", "boards"))) == ["sudoku6", "sudoku4"]
    rows = rows_of(here("list", "variants"))
    assert "family=hrm" in rows["sudoku_hrm_small"] and rows["sudoku_urm"].split()[-3] == "390,625"


@pytest.mark.parametrize(
    "name, differs, steps, flops",
    [
        ("exp02a_01", "L_cycles=2", "8,138", "9.2e+17"),
        ("exp03c", "L_layers=3, L_cycles=4", "8,138", "2.3e+18"),
        ("exp04a_5000", "train_puzzles=5000", "40,690", "1.1e+19"),
        ("exp06_e", "train.batch_size=24576, lr=0.0002, table_lr=0.0002, accumulation=2", "2,034", "2.1e+18"),
        ("exp09e", "optim.name=lion, beta2=0.99", "8,138", "2.1e+18"),
        ("exp04a_100_examples", "exp04a_100 with examples=50000000, eval.every_steps=813", "8,138", "2.1e+18"),
        ("baseline", registry.catalogue()["baseline"].summary, "8,138", "2.1e+18"),
        ("mini_exp06_e", "train.batch_size=32, lr=0.004, table_lr=0.004, accumulation=2", "156", "3.3e+11"),
    ],
)
def test_a_row(here, name, differs, steps, flops):
    """FLOPs of the full rows: the issue's 2.1e18 for the baseline, and in proportion to layers applied."""
    row = rows_of(here("list", name))[name]
    assert row.split(maxsplit=1)[1].split() == f"{differs} {steps} {flops} -".split()


def test_names_for_scripts(here):
    """In the order of a sweep, without aliases (exp02a_03 is the baseline), and without those that cannot be run so."""
    result = here("list", "exp02a", "--names")
    assert result.code == 0
    assert result.out.split() == "baseline exp02a_01 exp02a_02 exp02a_04 exp02a_05 exp02a_06".split()
    assert here("list", "exp02a_03", "--names").out == "baseline\n"


def test_names_of_the_runs_that_settings_allow(here, refused):
    result = here("list", "exp06", "--names", "--set", "train.accumulation=6144")
    problems = [line for line in result.err.splitlines() if line.startswith("note: ")]
    left_out = {line.removeprefix("note: ").split()[0] for line in problems}
    assert left_out and not left_out & set(result.out.split())
    assert refused("list", "exp01", "--names", "--set", "train.stebs=1").startswith("unknown setting 'train.stebs'")
    assert refused("list", "exp99", "--names").startswith("no experiment and no group matches 'exp99'")
    assert "give --names as well" in refused("list", "exp01", "--set", "seed=1")


def test_an_alias_points_to_its_run(here):
    assert rows_of(here("list", "exp02a"))["exp02a_03"].split() == "exp02a_03 L_cycles 6 = baseline".split()


def test_how_far_the_runs_are(here, tmp_path):
    start_run(tmp_path / "runs/a", "exp01a", step=100, evaluated=True)
    start_run(tmp_path / "runs/b0", "exp01b", step=100, evaluated=True)
    start_run(tmp_path / "runs/b1", "exp01b", step=100, evaluated=True, changes={"seed": 1})
    start_run(tmp_path / "runs/b2", "exp01b", step=40, changes={"seed": 2})
    start_run(tmp_path / "runs/d", "exp01d", step=3, total_steps=8138)
    start_run(tmp_path / "runs/d_short", "exp01d", step=100, evaluated=True, changes={"train.steps": 100})
    for seed in (0, 1):
        start_run(tmp_path / f"runs/e{seed}", "exp01e", step=9, changes={"seed": seed})
    start_run(tmp_path / "runs/c", "exp01c", step=50)  # under an alias' own name: the baseline's run
    start_run(tmp_path / "elsewhere/f", "exp01f", step=100, evaluated=True)

    rows = rows_of(here("list", "exp01"))
    assert rows["exp01a"].endswith("  done")
    assert rows["exp01b"].endswith("  2 done, step 40 of 100")
    assert rows["exp01d"].endswith("  step 3 of 8,138, 1 with other settings")
    assert rows["exp01e"].endswith("  step 9 of 100, step 9 of 100")
    assert rows["exp01f"].endswith("  -")
    assert rows_of(here("list", "baseline"))["baseline"].endswith("  step 50 of 100")
    assert rows_of(here("list", "exp01f", "--root", tmp_path / "elsewhere"))["exp01f"].endswith("  done")


def test_a_run_that_cannot_be_read_is_said_and_left_out(here, tmp_path):
    start_run(tmp_path / "runs/a", "exp01a")
    (tmp_path / "runs/a/config.json").write_text("rubbish")
    result = here("list", "exp01a")
    assert rows_of(result)["exp01a"].endswith("  -")
    assert result.err.startswith("note: left out: runs/a/config.json is not JSON")


def test_a_terminal_folds_what_differs(here, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    result = here("list", "exp06_f")
    lines = result.out.splitlines()
    assert max(map(len, lines)) <= 80
    at = next(i for i, line in enumerate(lines) if line.startswith("exp06_f "))
    parts = "train.batch_size=49152, lr=0.0002828, table_lr=0.0002828, accumulation=4".split()
    assert set(parts) <= set(" ".join(lines[at : at + 4]).split())
    assert not set(parts) <= set(lines[at].split())


def test_show_tells_what_the_catalogue_knows(here):
    said = here("show", "exp05_b", "--diff", "baseline").out.splitlines()
    group = registry.groups()["exp05"]
    assert said == [
        "model.halt_max_steps = 8   (baseline: 16)",
        f"# exp05: {group.question}",
        "# the users' guide expects (nobody measured it): exact_accuracy 0.84, steps 6.2",
    ]
    assert said[1:] == here("show", "exp05_b").out.splitlines()[-3:-1]
    said = here("show", "exp02a_03", "--diff", "baseline").out.splitlines()
    assert said[0] == "exp02a_03 and baseline have the same settings"
    assert said[-1] == "# another name of baseline, whose run stands for both"
    assert "# 8,138 steps, 2.1e+18 FLOPs of training (analytic)\n" in here("show", "baseline").out
    assert "expects" not in here("show", "mini_exp05_b").out


@pytest.mark.parametrize(
    "name, share, alternative",
    [
        ("exp04a_100", "all of the 813 steps", "exp04a_100_examples"),
        ("exp04a_250", "98% of the 2,034 steps", "exp04a_250_examples"),
        ("exp04a_500", "49% of the 4,069 steps", "exp04a_500_examples"),
        ("exp06_d", "49% of the 4,069 steps", "exp06_d_share"),
        ("exp06_e", "98% of the 2,034 steps", "exp06_e_share"),
        ("exp06_f", "all of the 1,017 steps", "exp06_f_share"),
    ],
)
def test_show_warns_of_a_warm_up_that_takes_the_run(here, name, share, alternative):
    said = here("show", name, "--diff", "baseline").out
    assert f"# note: {share} lie inside the warm-up of 2,000" in said
    assert f"# the same with more steps after the warm-up: {alternative}\n" in said
    assert "warm-up" not in here("show", alternative, "--diff", name).out


def test_show_without_the_number_of_puzzles(here):
    """How many steps a run has is then for the data to tell."""
    said = here("show", "demo", "--set", "data.train_puzzles=0", "train.steps=0", "train.epochs=1")
    assert said.code == 0 and "FLOPs" not in said.out


def test_training_names_the_alternative_at_its_start(here, tmp_path):
    """Before anything is computed: the eight devices here cannot share this batch."""
    shrunk = tiny.SETTINGS | {"train.steps": 0, "train.epochs": 3, "eval.every_steps": 0, "train.batch_size": 12}
    result = here("train", "exp04a_100", "--workdir", tmp_path / "run", *tiny.arguments(shrunk))
    assert "error: train.batch_size 12 is not divisible" in result.err
    assert "note: the same with more steps after the warm-up: exp04a_100_examples\n" in result.err
    roomy = shrunk | {"optim.warmup_steps": 1}
    assert "note:" not in here("train", "exp04a_100", "--workdir", tmp_path / "run", *tiny.arguments(roomy)).err


def test_names_say_what_hosts_must_find(here):
    """For launchers, on standard error: the sets of ARC, which no host fetches by itself."""
    result = here("list", "arc1", "--names")
    assert result.out == "arc1\n"
    assert "note: arc1 needs data.path: a folder with training, evaluation, concept in it" in result.err
    result = here("list", "arc2", "--names", "--set", "data.path=gs://mine/arc")
    assert result.err == "note: arc2 reads training2, evaluation2, concept in gs://mine/arc on every host\n"
    arrays = ("data.source=arrays", "data.path=/data/arc")
    result = here("list", "exp02a", "--names")
    assert not result.err and len(result.out.split()) > 1
    result = here("list", "arc1", "--names", "--set", *arrays)
    assert result.code == 2  # the arrays themselves say how many puzzles there are
