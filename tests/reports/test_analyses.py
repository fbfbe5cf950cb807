"""Each group's analyses: they answer from what was run, and claim nothing that no test shows."""

import re

import pytest

from tests.reports.conftest import SCENARIOS
from tests.reports.synthetic import write_group, write_run
from trm_jax.configs import registry
from trm_jax.reports.build import build
from trm_jax.reports.gather import group_study
from trm_jax.reports.groups import ANALYSES
from trm_jax.reports.pages import markdown

FULL = [name for name in registry.groups() if not name.startswith("mini_")]


def section(report, title):
    (found,) = [section for section in report.sections if re.search(title, section.title)]
    return found


def column(table, header) -> dict[str, str]:
    """A column's cells by the first one of their rows."""
    (index,) = [i for i, name in enumerate(table.columns) if re.search(header, name)]
    return {row[0]: row[index] for row in table.rows}


def test_every_group_has_analyses_and_none_is_left_over():
    assert set(ANALYSES) == set(FULL)
    assert {f"mini_{name}" for name in ANALYSES} == set(registry.groups()) - set(FULL)


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("group", FULL)
def test_every_report_is_whole_whatever_is_missing(report_of, scenario, group):
    report = report_of(scenario, group)
    assert len(report.sections) == len(ANALYSES[group]) and report.answer
    names = [plot.name for section in report.sections for plot in section.plots]
    assert len(set(names)) == len(names), "each plot has a file of its own"
    for part in report.sections:
        assert part.sentence.endswith(".") and part.sentence[0].isupper() or part.sentence.startswith(tuple(FULL)), part
        assert part.tables or part.sentence.startswith(("Not answered", "No fit")), part.title
        assert part.plots or not part.tables or "No arm reaches" in part.sentence or scenario == "old records"
        for table in part.tables:
            assert {len(row) for row in table.rows} == {len(table.columns)}
    text = markdown(report).replace("\\", "")
    assert not re.search(r"\bnan\b|\binf\b|None", text)
    if scenario == "one seed":
        assert not re.search(r"p [=<] ", text), "no test is possible with one seed"
        assert "±" not in re.sub(r"mean ± standard deviation|± [^(]*\(95% confidence\)|\| ± [^|]* \|", "", text)
    if scenario == "ends only":
        members = [experiment.name for experiment in registry.groups()[group].experiments]
        assert all(name in text for name in members)
        assert len(members) == 2 or "not run" in text


@pytest.mark.parametrize("group", [name for name in registry.groups() if name not in FULL])
def test_small_groups_get_the_same_analyses_without_the_guides_figures(report_of, group):
    report, full = report_of("one seed", group), report_of("one seed", group.removeprefix("mini_"))
    assert [part.title for part in report.sections] == [part.title for part in full.sections]
    assert "guide expects" in markdown(full) and "guide expects" not in markdown(report)


@pytest.mark.parametrize("group", FULL)
def test_the_guides_expectations_stand_in_columns_of_their_own(report_of, group):
    report = report_of("three seeds", group)
    expected = {key: value for e in registry.groups()[group].experiments for key, value in e.expects.items()}
    headers = {name for part in report.sections for table in part.tables for name in table.columns}
    about = {name for name in headers if name.startswith("the guide expects: ")}
    assert len(about) == len(expected) and all(name.endswith("(unmeasured)") for name in about)
    assert not any("guide expects" in part.sentence for part in report.sections)


def test_difference_only_with_a_test_behind_it(report_of):
    table = report_of("three seeds", "exp01").sections[0].tables[0]
    said = column(table, "against exp01c .Welch, Holm over 5.")
    assert said["exp01c = baseline"] == "reference"
    assert re.fullmatch(r"-0.067\d, lower \(p < 0.001\)", said["exp01a"])
    said = column(report_of("one seed", "exp01").sections[0].tables[0], "against exp01c")
    assert re.fullmatch(r"-0.067\d, no test: n < 2", said["exp01a"])
    assert "no difference is claimed" in report_of("one seed", "exp01").answer


def test_near_means_are_not_called_different(tmp_path):
    for seed, (low, high) in enumerate(((0.80, 0.82), (0.84, 0.83), (0.82, 0.86))):
        write_run(tmp_path / f"a{seed}", "contrib01_curriculum", seed=seed, accuracy=low)
        write_run(tmp_path / f"b{seed}", "baseline", seed=seed, accuracy=high)
    report = build(group_study("contrib01", tmp_path), "")
    said = section(report, "^Exact accuracy$")
    assert "shows no difference from contrib01_curriculum" in said.sentence
    assert "no difference shown (p = " in column(said.tables[0], "against")["contrib01_curriculum"]


def test_fewer_seeds_than_others_are_said(tmp_path):
    write_group(tmp_path, "contrib01", seeds=2)
    write_run(tmp_path / "third", "contrib01_curriculum", seed=2)
    assert (
        "fewer seeds than others: contrib01_baseline (2 of 3)" in build(group_study("contrib01", tmp_path), "").warnings
    )


def test_seeds_that_shared_a_program_are_one_measurement_of_time(tmp_path):
    for seed in range(3):
        for name, speed in (("baseline", 100.0), ("contrib01_curriculum", 300.0)):
            how = {"examples_per_s": speed + seed, "accuracy": 0.86 + 0.01 * seed, "facts": {"pack": 3}}
            write_run(tmp_path / f"{name}{seed}", name, seed=seed, **how)
    report = build(group_study("contrib01", tmp_path), "")
    said = section(report, "^Time to 0.85")
    assert column(said.tables[0], "^time to 0.85")["contrib01_curriculum"].endswith("(n = 1)")
    assert said.sentence.startswith("Arms are not compared in time: up to 3 runs trained in one program")
    assert "lowest mean training compute to 0.85" in said.sentence and "lowest mean time" not in said.sentence
    accuracy = column(section(report, "^Exact accuracy").tables[0], "^exact accuracy$")
    assert accuracy["contrib01_curriculum"] == "0.8700 ± 0.0100 (n = 3)", "accuracies are of each run"
    assert any("count as one measurement" in warning for warning in report.warnings)


def test_runs_that_were_made_differently_are_said(tmp_path):
    write_run(tmp_path / "a", "baseline", facts={"device_kind": "H200", "pack": 3})
    write_run(tmp_path / "b", "contrib01_curriculum", facts={"versions": {"jax": "0.11"}})
    report = build(group_study("contrib01", tmp_path), "")
    assert [warning.split(":")[0] for warning in report.warnings] == [
        "runs on different devices",
        "runs with different versions of the software",
        "runs trained side by side (1 and 3 in one program)",
    ]
    assert dict(report.about)["device"] == "1 x H200 (cpu); 1 x cpu (its model is not recorded)"


def test_missing_members_stay_in_the_tables(report_of):
    table = report_of("ends only", "exp01").sections[0].tables[0]
    assert column(table, "^exact accuracy$")["exp01b"] == "not run"
    assert column(table, "guide expects")["exp01b"] == "0.85"
    assert (
        report_of("ends only", "exp01").warnings[0].startswith("not run (or not finished): exp01b, exp01c = baseline")
    )


def test_model_size_is_fitted(tmp_path):
    for name in ("exp01a", "exp01b", "baseline", "exp01d", "exp01e", "exp01f"):
        page = write_run(tmp_path / name, name)
        parameters = int(re.search(r'"parameters": (\d+)', (page / "run.json").read_text())[1])
        for seed in (1, 2):
            accuracy = 0.88 - 0.08 * (parameters / 1483778) ** -1.2 + 0.001 * (2 * seed - 3)
            write_run(tmp_path / f"{name}-{seed}", name, seed=seed, accuracy=accuracy)
        (page / "config.json").unlink()
    report = build(group_study("exp01", tmp_path), "")
    fit = section(report, "How accuracy grows")
    limit = float(re.search(r"limit is ([\d.]+) ± [\d.]+ \(95% confidence\)", fit.sentence)[1])
    assert limit == pytest.approx(0.88, abs=0.002)
    # 0.08 (x / 1.48M)^-1.2 = 0.01
    point = float(re.search(r"within 0.01 of it from ([\d,]+) parameters", fit.sentence)[1].replace(",", ""))
    assert point == pytest.approx(1483778 * 8 ** (1 / 1.2), rel=0.15)
    assert "exp01d (hidden_size 768) is the smallest within 0.01 of the best mean, exp01f's 0.8784" in fit.sentence


def test_too_few_sizes_are_not_fitted(report_of):
    said = section(report_of("ends only", "exp01"), "How accuracy grows").sentence
    assert said.startswith("No fit of a - b x^-c: too few points: 2 different sizes")


def test_levels_that_were_not_reached_say_so(report_of):
    part = section(report_of("three seeds", "exp01"), "^Time to 0.8, 0.85 and 0.87$")
    assert column(part.tables[0], "0.85")["exp01a"] == "not reached"
    assert re.fullmatch(r"[\d.]+ ± \d.* \(n = 3\)", column(part.tables[0], "0.8 ")["exp01b"])
    assert "0.85 is reached by some seeds only in exp01b and by none in exp01a." in part.sentence


def test_a_level_that_some_seeds_reach_is_no_mean_of_the_lucky(tmp_path):
    for seed, accuracy in enumerate((0.84, 0.86)):
        write_run(tmp_path / str(seed), "baseline", seed=seed, accuracy=accuracy)
    part = section(build(group_study("contrib01", tmp_path), ""), "^Epochs to")
    assert column(part.tables[0], "0.85")["contrib01_baseline = baseline"] == "50,000 (n = 1), 1 not reached"
    assert "No arm reaches 0.85 with every seed (contrib01_baseline with some)" in part.sentence


def test_other_levels_can_be_asked_for(tmp_path):
    write_group(tmp_path, "exp01", seeds=1)
    report = build(group_study("exp01", tmp_path, levels=(0.5,)), "")
    assert section(report, "^Time to 0.5$").sentence.startswith(
        "exp01a (hidden_size 256) has the lowest mean time to 0.5"
    )


def test_cycles_at_equal_depth(report_of):
    part = section(report_of("three seeds", "exp02a"), "equal depth")
    assert [(row[0], row[1], row[4]) for row in part.tables[0].rows] == [
        ("6", "exp02a_01 (H 3, L 2)", "exp02b_01 (H 1, L 6)"),
        ("12", "exp02a_02 (H 3, L 4)", "exp02b_02 (H 2, L 6)"),
        ("24", "exp02a_04 (H 3, L 8)", "exp02b_04 (H 4, L 6)"),
        ("30", "exp02a_05 (H 3, L 10)", "exp02b_05 (H 5, L 6)"),
    ]
    assert part.tables[0].rows[0][3].startswith("18, ") and part.tables[0].rows[0][6].startswith("14, ")
    assert part == section(report_of("three seeds", "exp02b"), "equal depth"), "both pages show the same"
    alone = section(report_of("ends only", "exp02a"), "equal depth").sentence
    assert alone.startswith("Not answered: no runs of exp02b")


def test_an_optimum_inside_and_at_the_edge(report_of, tmp_path):
    assert "at the edge of what was run" in report_of("three seeds", "exp02a").answer
    for name, accuracy in (("exp02a_01", 0.5), ("exp02a_02", 0.9), ("exp02a_05", 0.7)):
        write_run(tmp_path / name, name, accuracy=accuracy)
    assert "inside the range of L cycles" in build(group_study("exp02a", tmp_path), "").answer


def test_the_gap_is_training_less_held_out(report_of):
    table = section(report_of("one seed", "exp02a"), "gap").tables[0]
    gap = float(column(table, "^train-test gap$")["exp02a_01"].split()[0])
    known, held_out = (float(column(table, name)["exp02a_01"].split()[0]) for name in ("^training", "^exact"))
    assert gap == pytest.approx(known - held_out, abs=1e-4) and gap > 0.02


def test_both_notions_of_depth(report_of):
    table = section(report_of("three seeds", "exp03"), "Effective depth").tables[0]
    assert list(column(table, "the guide's").values()) == ["36", "18", "12", "9", "6"]
    assert list(column(table, "the paper's").values()) == ["39", "42", "45", "48", "54"]
    assert {"compute of an update (TFLOP)", "training compute (EFLOP)"} < set(table.columns)


def test_fronts_against_speed_parameters_and_memory(tmp_path):
    for name, accuracy, speed in (("exp03a", 0.8, 100.0), ("baseline", 0.85, 200.0), ("exp03c", 0.84, 300.0)):
        write_run(tmp_path / name, name, accuracy=accuracy, examples_per_s=speed)
    table = build(group_study("exp03", tmp_path), "").sections[0].tables[0]
    assert list(column(table, "front of throughput").values()) == ["no", "yes", "yes", "not run", "not run"]
    assert list(column(table, "front of parameters").values()) == ["yes", "yes", "no", "not run", "not run"]


def test_the_smallest_number_of_puzzles(report_of):
    said = report_of("three seeds", "exp04a").answer
    assert "0.85 is reached from 500 training puzzles on, by exp04a_500" in said or "from 250 training puzzles" in said
    table = section(report_of("three seeds", "exp04a"), "each doubling").tables[0]
    gains = [float(row[-1]) for row in table.rows]
    assert gains[0] > gains[-1] > 0


@pytest.mark.parametrize(
    "better, answer", [("puzzles", "no full substitute"), ("variants", "fewer puzzles are worth more")]
)
def test_augmentation_as_a_substitute(tmp_path, better, answer):
    many, few = (0.87, 0.80) if better == "puzzles" else (0.80, 0.87)
    for seed in range(3):
        for name, accuracy in (("exp04a_100", few), ("exp04b_0100", many), ("exp04a_2000", many), ("exp04b_2000", few)):
            write_run(tmp_path / f"{name}{seed}", name, seed=seed, accuracy=accuracy + 0.001 * seed)
    part = section(build(group_study("exp04b", tmp_path), ""), "substitute")
    assert answer in part.sentence
    assert [(row[1], row[4]) for row in part.tables[0].rows] == [
        ("exp04a_100", "exp04b_0100"), ("exp04b_2000", "exp04a_2000"),
    ]  # fmt: skip


def test_inference_and_halting(report_of):
    report = report_of("three seeds", "exp05")
    flops = column(report.sections[0].tables[0], "inference compute")
    assert float(flops["exp05_f"]) == pytest.approx(2 * float(flops["exp05_d = baseline"]), rel=1e-3)
    part = section(report, "When it halts")
    assert part.sentence.startswith("It halts early: from ")
    shown = {panel.title: panel for panel in part.plots[0].panels}["Where held-out puzzles would halt"]
    assert len(shown.series) == 6 and all(sum(series.y) == pytest.approx(1) for series in shown.series)


def test_a_model_that_never_halts_early_is_said_not_to(tmp_path):
    write_group(tmp_path, "exp05", halt_step=200.0)
    report = build(group_study("exp05", tmp_path), "")
    assert "It mostly does not halt early: from " in report.answer


def test_the_linear_regime_and_the_critical_batch(tmp_path):
    sizes = {"exp06_b": 3072, "baseline": 6144, "exp06_d": 12288, "exp06_e": 24576}
    for name, batch in sizes.items():
        # Tenths of the examples, as evaluations are: a critical batch of 6144.
        write_run(tmp_path / name, name, accuracy=0.9, reaches=(0.85, 0.2 + 0.2 * batch / 6144 - 1e-9))
    part = section(build(group_study("exp06", tmp_path), ""), "Critical batch")
    critical = float(re.search(r"fitted critical batch is ([\d,]+)", part.sentence)[1].replace(",", ""))
    assert critical == pytest.approx(6144, rel=0.01), "updates are whole numbers"
    assert "No larger batch than 3,072 is in the linear regime" in part.sentence
    efficiency = column(part.tables[0], "smallest batch's over")
    assert [efficiency[name] for name in ("exp06_b", "exp06_c = baseline", "exp06_d")] == ["1.00", "0.75", "0.50"]
    assert "largest batch whose mean accuracy is within 0.01 of the best is 24,576 (exp06_e)" in part.sentence


def test_batches_that_all_scale(report_of):
    part = section(report_of("one seed", "exp06"), "Critical batch")
    assert "The linear regime goes up to batch 49,152" in part.sentence
    assert "critical batch is beyond" in part.sentence or "fitted critical batch" in part.sentence


def test_precision_relative_to_float32(report_of):
    report = report_of("three seeds", "exp07")
    table = section(report, "Speed and memory").tables[0]
    assert list(column(table, "throughput, times exp07a's").values()) == ["1.00", "0.50", "0.33"]
    stable = section(report, "Loss variance").tables[0]
    assert column(stable, "skipped")["exp07a"] == "not recorded"
    assert column(stable, "skipped")["exp07c"].startswith("50")


def test_averages_of_the_same_run(tmp_path):
    write_group(tmp_path, "exp08", seeds=3, changes={"optim.ema_also": "0,0.99"})
    part = section(build(group_study("exp08", tmp_path), ""), "same run")
    rows = {row[:2]: row for row in part.tables[0].rows}
    assert ("exp08a", "0.99") in rows and ("exp08d = baseline", "0.999 (of record)") in rows
    assert ("exp08b", "0.99 (of record)") in rows and ("exp08b", "0.99") not in rows
    # Differences of 0.02, 0.021 and 0.022: t = 0.021 / (0.001 / sqrt(3)), two degrees of freedom.
    assert re.fullmatch(r"\+0.0210 ± 0.0025, higher \(n = 3, p = 0.00\d\)", rows["exp08c", "0.995 (of record)"][4])
    assert "exp08c gains 0.0210 by averaging with 0.995 (of record)" in part.sentence


def test_averages_that_were_not_tracked_say_how_to(report_of):
    said = section(report_of("three seeds", "exp08"), "same run").sentence
    assert said.startswith("Not answered") and "optim.ema_also=0" in said


def test_beta2_only_where_it_was_varied(report_of):
    part = section(report_of("three seeds", "exp09"), "beta2")
    assert {row[1] for row in part.tables[0].rows} == {"adamw"} and len(part.tables[0].rows) == 3
    assert part.sentence.startswith("With adamw, the mean exact accuracy lies between")


def test_decay_against_constant(report_of):
    part = report_of("three seeds", "exp10").sections[0]
    assert "Of the constant rates, exp10c" in part.sentence
    said = column(part.tables[0], "decay less constant")
    assert said["exp10a"] == "" and said["exp10d"].endswith("(against exp10b)") and "higher" in said["exp10d"]


def test_halting_at_equal_accuracy(tmp_path):
    for seed in range(3):
        write_run(tmp_path / f"b{seed}", "baseline", seed=seed, accuracy=0.80, halt_step=8.0 + 0.1 * seed)
        write_run(tmp_path / f"a{seed}", "contrib02_adaptive", seed=seed, accuracy=0.87, halt_step=4.0 + 0.1 * seed)
    part = build(group_study("contrib02", tmp_path), "").sections[0]
    accuracies = column(part.tables[0], "accuracy there")
    assert float(accuracies["contrib02_adaptive"]) >= 0.8 and accuracies["contrib02_baseline = baseline"] == "0.8000"
    updates = {name: float(text.replace(",", "")) for name, text in column(part.tables[0], "mean update").items()}
    assert updates["contrib02_adaptive"] < updates["contrib02_baseline = baseline"]
    assert re.search(
        r"contrib02_adaptive would halt after .*\(a difference, Welch's t-test, p < 0.001\)", part.sentence
    )
