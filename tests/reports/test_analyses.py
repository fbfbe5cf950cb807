"""Each group's analyses: they answer from what was run, and claim nothing that no test shows."""

import json
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


def column_names(table, part) -> list[str]:
    return [name for name in table.columns if part in name]


def test_every_group_has_analyses_and_none_is_left_over():
    assert set(ANALYSES) == set(FULL)
    assert {f"mini_{name}" for name in ANALYSES} == set(registry.groups()) - set(FULL)


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("group", FULL)
def test_every_report_is_whole_whatever_is_missing(report_of, tmp_path_factory, scenario, group):
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
    # Without the folder that the runs lie in, whose name is the machine's: pytest-0 is no number.
    text = markdown(report).replace("\\", "").replace(str(tmp_path_factory.getbasetemp()), "")
    assert not re.search(r"\bnan\b|\binf\b|None", text)
    assert not re.search(r"mean mean|[+-]0\.?0*(?![\d.e])|\b1 times|(\b\w+\b) \(\1\)", text), "words of a person"
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


def test_expectations_stand_beside_no_other_data_or_scale(tmp_path):
    write_group(tmp_path / "small", "exp07", changes={"data.train_puzzles": 64, "model.hidden_size": 64})
    report = build(group_study("exp07", tmp_path / "small"), "")
    assert "guide expects" not in markdown(report) and "guide_expects" not in report.csv["exp07.csv"].columns
    said = dict(report.about)["expectations"]
    assert said.endswith("these runs changed data.train_puzzles and model.hidden_size")
    # Fewer puzzles to score are a sample of what the guide speaks of.
    write_group(tmp_path / "sample", "exp07", changes={"data.test_puzzles": 99, "eval.max_examples": 9})
    report = build(group_study("exp07", tmp_path / "sample"), "")
    assert "guide expects" in markdown(report) and "expectations" not in dict(report.about)


def test_the_data_are_those_of_the_runs(tmp_path):
    def data(group, **changes):
        root = tmp_path / str(len(list(tmp_path.iterdir())))
        write_group(root, group, changes=changes)
        return dict(build(group_study(group, root), "").about)["data"]

    assert data("exp07") == (
        "9x9 boards of sapientinc/sudoku-extreme, data seed 0: 1,000 training puzzles with 1,000 augmentations each"
    )
    assert data("exp07", **{"data.source": "generated", "data.train_puzzles": 64, "data.extra_clues": 1}) == (
        "generated 9x9 boards, 1 extra clue, data seed 0: 64 training puzzles with 1,000 augmentations each"
    )
    assert data("exp04b").endswith("1,000 training puzzles with 10, 100, 500, 1,000 and 2,000 augmentations each")
    assert data("mini_exp04a", **{"data.min_rating": 3}) == (
        "generated 4x4 boards, 2 extra clues, rated 3 to any, data seed 0: 2, 5, 10, 20, 40 and 100 training puzzles "
        "with 10 augmentations each"
    )


def test_arms_that_solve_nothing_and_differ_in_updates_are_named(tmp_path):
    for name, accuracy in (("exp04a_100", 0.0), ("exp04a_250", 0.0), ("baseline", 0.86), ("exp04a_2000", 0.88)):
        write_run(tmp_path / name, name, accuracy=accuracy)
    report = build(group_study("exp04a", tmp_path), "")
    updates = "from 813 (exp04a_100) to 16,276 (exp04a_2000)"
    assert "no held-out puzzle was solved at the end of exp04a_100 and exp04a_250" in report.warnings
    mind = f"arms differ in their number of updates too, {updates}, and may owe their accuracy to it"
    assert mind in report.warnings
    assert "0.85 is reached from 1,000 training puzzles on, first by exp04a_1000" in report.answer
    assert "after 8,138 updates" in report.answer
    assert f"Updates differ too, {updates}, so training puzzles alone do not explain it." in report.answer
    write_group(tmp_path / "b", "exp04b")
    other = build(group_study("exp04b", tmp_path / "b"), "")
    assert "pdates differ" not in other.answer and not any("number of updates" in line for line in other.warnings)


def test_a_level_that_larger_arms_lose_again_is_not_reached_from_there_on(tmp_path):
    for name, accuracy in (("exp04a_500", 0.80), ("baseline", 0.86), ("exp04a_2000", 0.84), ("exp04a_5000", 0.88)):
        write_run(tmp_path / name, name, accuracy=accuracy)
    answer = build(group_study("exp04a", tmp_path), "").answer
    assert "0.85 is reached at 1,000 training puzzles, though not by all above, first by exp04a_1000" in answer


def test_no_saturation_where_the_largest_is_best_by_far(tmp_path):
    for name, accuracy in (("exp01a", 0.80), ("exp01b", 0.83), ("baseline", 0.86)):
        write_run(tmp_path / name, name, accuracy=accuracy)
    said = section(build(group_study("exp01", tmp_path), ""), "How accuracy grows").sentence
    assert "No saturation as measured: the largest, exp01c (hidden_size 512), has the best mean, 0.8600" in said


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


def test_programs_at_once_are_those_that_overlapped_in_the_sweep(tmp_path):
    entries = []
    for place, (name, start, end) in enumerate((("exp07a", 0, 9), ("baseline", 5, 20), ("exp07c", 20, 30))):
        write_run(tmp_path / name, name, facts={"pack": 2})
        times = {"started": f"2026-01-01T10:{start:02}:00+00:00", "ended": f"2026-01-01T10:{end:02}:00+00:00"}
        entries.append({"name": name, "seed": 0, "folder": f"runs/{name}", "command": f"trm train {place}"} | times)

    def company(group="exp07"):
        return dict(build(group_study(group, tmp_path), "").about)["side by side"]

    assert company() == "2 runs in a program; programs at once were not recorded"
    (tmp_path / "sweep.json").write_text(json.dumps({"runs": entries}))
    assert company() == "2 runs in a program; 2 programs at once by the sweep's record"
    (tmp_path / "sweep.json").write_text(json.dumps({"runs": entries[1:]}))
    assert company() == "2 runs in a program; 1 program at once by the sweep's record", "one ended when the next began"
    # Two runs of one pack, of which the one was written down a second later.
    (tmp_path / "sweep.json").write_text(json.dumps({"runs": [entries[1], entries[1] | {"ended": "2026-01-01T10:21"}]}))
    assert company() == "2 runs in a program; 1 program at once by the sweep's record"
    (tmp_path / "sweep.json").write_text("{")
    assert company().endswith("the sweep's record of programs at once cannot be read")


def test_how_runs_shared_a_machine_is_said(report_of):
    report = report_of("three seeds", "exp07")
    assert dict(report.about)["side by side"].startswith("each run alone in its program")
    header, first = report.csv["exp07_runs.csv"].columns, report.csv["exp07_runs.csv"].rows[0]
    assert [first[header.index(name)] for name in ("device", "pack")] == ["cpu", "1"]


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
    assert "0.85 is reached with some seeds only by exp01b, with none by exp01a." in part.sentence


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
    report = build(group_study("exp03", tmp_path), "")
    table = report.sections[0].tables[0]
    assert list(column(table, "front of throughput").values()) == ["no", "yes", "yes", "not run", "not run"]
    assert list(column(table, "front of parameters").values()) == ["yes", "yes", "no", "not run", "not run"]
    assert list(column(table, "front of compute").values()) == ["yes", "yes", "no", "not run", "not run"]
    assert "against throughput, exp03b and exp03c; against compute of an update, exp03a and exp03b" in report.answer
    # These were on a CPU, whose memory is that of a process.
    assert "against peak memory" not in report.answer and not column_names(table, "front of peak memory")
    assert report.answer.endswith("not compared in peak memory: on a CPU it is that of the whole process, compiler and "
                                  "data included.")  # fmt: skip


@pytest.mark.parametrize("facts, axes", [({"pack": 3, "backend": "gpu"}, 2), ({"backend": "gpu"}, 4)])
def test_fronts_are_of_costs_that_are_an_arms_own(tmp_path, facts, axes):
    for name in ("exp03a", "baseline"):
        write_run(tmp_path / name, name, facts=facts)
    report = build(group_study("exp03", tmp_path), "")
    part = report.sections[0]
    assert len(column_names(part.tables[0], "on the front of")) == len(part.plots[0].panels) == axes
    told = [column_names(part.tables[0], name) for name in ("throughput (", "peak memory (")]
    assert all(told), "though not compared"
    shared = "Arms are not compared in throughput and peak memory: up to 3 runs trained in one program"
    assert (shared in report.answer) == (axes == 2)
    assert ("against throughput" in report.answer) == (axes == 4)


def test_shared_clocks_are_told_and_not_compared(tmp_path):
    for seed in range(2):
        for name, speed in (("exp01a", 900.0), ("baseline", 100.0)):
            how = {"accuracy": 0.86 + 0.01 * seed, "examples_per_s": speed + seed, "facts": {"pack": 2}}
            write_run(tmp_path / f"{name}{seed}", name, seed=seed, **how)
    report = build(group_study("exp01", tmp_path), "")
    part = section(report, "^Throughput and memory$")
    assert part.sentence.startswith("Arms are not compared in throughput and peak memory: up to 2 runs trained in one")
    assert (
        not column_names(part.tables[0], "against")
        and column(part.tables[0], "throughput")["exp01a"] == "900.5 (n = 1)"
    )
    part = section(report, "per parameter and time")
    assert "exp01a (hidden_size 256) has the highest mean accuracy per million parameters and PFLOP" in part.sentence
    assert "higher" not in part.sentence.split(".")[0] and len(column_names(part.tables[0], "against")) == 1
    # The larger model takes as many updates to a level, so more compute.
    said = section(report, "^Time to").sentence
    assert "exp01a (hidden_size 256) has the lowest mean training compute to 0.8" in said


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


def test_an_only_step_is_no_early_one(tmp_path):
    write_group(tmp_path, "mini_exp05", halt_step=1.0)
    report = build(group_study("mini_exp05", tmp_path), "")
    known = r"It halts early: from \d+\.\d% \(mini_exp05_[b-f]\) to \d+\.\d% \(mini_exp05_[b-f]\) of held-out puzzles"
    assert re.search(known, report.answer)
    left = "Left out here, since nothing can halt before its only step: mini_exp05_a."
    said = section(report, "When it halts").sentence
    assert report.answer.endswith(left) and left in said
    assert "mini_exp05_a" not in said.replace(left, ""), "nor is its halt step the least of all"
    assert "only step" not in build(group_study("mini_exp05", tmp_path), "").sections[2].sentence


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
    said = re.search(r"fitted critical batch is ([\d,]+), between ([\d,]+) and ([\d,]+)", part.sentence)
    critical, low, high = (float(number.replace(",", "")) for number in said.groups())
    assert critical == pytest.approx(6144, rel=0.01), "updates are whole numbers"
    assert 0.98 * critical < low <= critical <= high < 1.02 * critical
    assert "(95% confidence, n = 4 runs, 2 degrees of freedom)" in part.sentence
    assert "No larger batch than 3,072 is in the linear regime" in part.sentence
    efficiency = column(part.tables[0], "smallest batch's over")
    assert [efficiency[name] for name in ("exp06_b", "exp06_c = baseline", "exp06_d")] == ["1.00", "0.75", "0.50"]
    assert "largest batch whose mean accuracy is within 0.01 of the best is 24,576 (exp06_e)" in part.sentence


def test_a_critical_batch_that_runs_do_not_determine_is_said(tmp_path):
    # The share of the examples that each takes: it hardly grows with the batch, and unevenly.
    for name, share in (("exp06_b", 0.5), ("baseline", 0.4), ("exp06_d", 0.6), ("exp06_e", 0.6)):
        write_run(tmp_path / name, name, accuracy=0.9, reaches=(0.85, share - 1e-9))
    part = section(build(group_study("exp06", tmp_path), ""), "Critical batch")
    assert re.search(
        r"do not determine the critical batch: anything from [\d,]+ up agrees with them \(95% confidence, n = 4 runs, "
        r"2 degrees of freedom; the best fit is [\d,]+\)",
        part.sentence,
    )
    assert "fit, not determined" in {series.label for series in part.plots[0].panels[0].series}


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


def test_live_weights_of_a_run_that_trained_the_same(tmp_path):
    """A run that averages nothing has, with the same seed, the live weights of one that does."""
    for seed in (0, 1, 2):
        same = {"seed": seed, "noise_of": "exp08a"}
        write_run(tmp_path / f"a{seed}", "exp08a", accuracy=0.80 + 0.01 * seed, **same)
        write_run(tmp_path / f"d{seed}", "baseline", accuracy=0.85 + 0.011 * seed, **same)
        write_run(tmp_path / f"e{seed}", "exp08e", seed=seed, accuracy=0.86)
    part = section(build(group_study("exp08", tmp_path), ""), "same run")
    (row,) = part.tables[0].rows
    assert row[:4] == (
        "exp08d = baseline", "0.999 (of record)", "0.8610 ± 0.0110 (n = 3)", "0.8100 ± 0.0100 (n = 3) *",
    )  # fmt: skip
    assert re.fullmatch(r"\+0.0510 ± 0.0025, higher \(n = 3, p < 0.001\)", row[4])
    assert "* as scored by exp08a" in part.tables[0].caption
    assert "Not answered for exp08e: these runs did not evaluate their live weights" in part.sentence
    live = part.plots[0].panels[0].series[-1]
    assert live.label == "live weights" and list(live.y) == pytest.approx([0.81, 0.81])


def test_arms_of_the_same_seeds_are_compared_by_pairs(tmp_path):
    noise = (0.0, 0.05, 0.02)  # of the seed, shared by the arms
    for seed, shared in enumerate(noise):
        for name, accuracy in (("exp08a", 0.80), ("exp08b", 0.82 + 0.001 * seed), ("baseline", 0.84 - 0.001 * seed)):
            write_run(tmp_path / f"{name}{seed}", name, seed=seed, accuracy=accuracy + shared)
    write_run(tmp_path / "other", "exp08e", seed=7)
    part = section(build(group_study("exp08", tmp_path), ""), "^Exact accuracy$")
    pairs = column(
        part.tables[0], r"the same by pairs of one seed: difference ± 95% interval \(paired t, Holm over 2\)"
    )
    assert re.fullmatch(r"-0.0390 ± 0.0025, lower \(n = 3, p < 0.001\)", pairs["exp08a"])
    assert pairs["exp08d = baseline"] == "reference" and pairs["exp08e"] == "no seed in common"
    assert "no difference shown" in column(part.tables[0], "against exp08d")["exp08a"], "Welch's test sees their noise"
    assert "shows exp08a (p < 0.001) and exp08b (p = 0.0" in part.sentence


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


def test_where_the_time_went(tmp_path):
    for seed, lost in enumerate((0.0, 20.0)):
        spent = {"train": 60.0, "compile": 20.0, "lost": lost, "down": 10 * lost}
        write_run(tmp_path / f"a{seed}", "exp07a", seed=seed, spent=spent, lives=2 * seed + 1)
    write_run(tmp_path / "b", "baseline", spent={"train": 90.0, "evaluation": 10.0})
    write_run(tmp_path / "b1", "baseline", seed=1)  # of an older version
    report = build(group_study("exp07", tmp_path), "trm report exp07")
    (table,) = section(report, "Where the time went").tables
    rows = {row[0]: row[1:] for row in table.rows}
    assert table.columns[1:] == (
        "time in all lives (min)", "trained", "compilation", "waiting for data", "evaluation", "checkpoints", "setup",
        "lost to crashes", "lives", "between lives (min)",
    )  # fmt: skip
    assert rows["exp07a"] == (
        "1.5 ± 0.2 (n = 2)", "66.7%", "22.2%", "0.0%", "0.0%", "0.0%", "0.0%", "11.1%", "1 to 3", "1.667"
    )  # fmt: skip
    assert rows["exp07b = baseline"][:3] == ("1.667 (n = 1)", "90.0%", "0.0%") and rows["exp07b = baseline"][-2] == "1"
    assert rows["exp07c"] == ("not run",) * 10
    said = section(report, "Where the time went")
    assert said.sentence == (
        "Between 66.7% (exp07a) and 90.0% (exp07b) of the time trained; most of the rest was compilation, 14.3% over "
        "all arms."
    ) and not said.notes  # fmt: skip


def test_the_time_of_a_pack_is_told_once_in_an_arm(tmp_path):
    spent = {"train": 99.99, "lost": 0.01}
    for seed in range(3):
        write_run(tmp_path / f"a{seed}", "exp07a", seed=seed, spent=spent, facts={"pack": 3})
    said = section(build(group_study("exp07", tmp_path), "trm report exp07"), "Where the time went")
    (row,) = [row for row in said.tables[0].rows if row[0] == "exp07a"]
    assert row[1:3] == ("1.667 (n = 1)", "100.0%") and row[8] == "<0.1%"
    assert said.sentence.startswith("100.0% of the time trained; most of the rest was lost to crashes, <0.1%")
    assert re.match("Up to 3 runs trained in one program: the time is that of the whole program", said.notes[0])


def test_of_older_runs_no_word_is_said_on_where_their_time_went(report_of):
    report = report_of("three seeds", "exp07")
    assert "Where the time went" not in [part.title for part in report.sections]
    table = report.csv["exp07_runs.csv"]
    for key in ("goodput", "lives", "seconds_train", "seconds_lost", "seconds_down"):
        assert {row[table.columns.index(key)] for row in table.rows} == {""}
