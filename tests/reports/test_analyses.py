"""Each group's report: it answers from what was run, and claims nothing that no test shows."""

import ast
import json
import re

import pytest

from tests.reports.synthetic import write_group, write_run
from trm_jax.configs import registry
from trm_jax.reports.build import build
from trm_jax.reports.gather import group_study
from trm_jax.reports.pages import markdown

FULL = [name for name, group in registry.groups().items() if group.report and not name.startswith("mini_")]
CASES = [
    *((scenario, group) for scenario in ("three seeds", "ends only") for group in FULL),
    *(("old records", group) for group in ("exp01", "exp05", "exp07", "exp08", "contrib02")),
]


def section(report, title):
    (found,) = [section for section in report.sections if re.search(title, section.title)]
    return found


def column(table, header) -> dict[str, str]:
    """A column's cells by the first one of their rows."""
    (index,) = [i for i, name in enumerate(table.columns) if re.search(header, name)]
    return {row[0]: row[index] for row in table.rows}


def heads(table, part) -> list[str]:
    return [name for name in table.columns if part in name]


def report_on(group, root):
    return build(group_study(group, root), "")


def runs_of(root, accuracies: dict, **how):
    """Runs of experiments that end at these accuracies, of several a seed each."""
    for name, values in accuracies.items():
        for seed, value in enumerate(values if isinstance(values, tuple) else (values,)):
            write_run(root / f"{name}-{seed}", name, seed=seed, accuracy=value, **how)
    return root


def test_every_group_says_how_it_is_reported():
    groups = registry.groups()
    assert len(FULL) == 14 and all(name.startswith(("exp", "contrib")) for name in FULL)
    assert {name: groups[f"mini_{name}"].report for name in FULL} == {name: groups[name].report for name in FULL}


@pytest.mark.parametrize("scenario, group", CASES)
def test_every_report_is_whole_whatever_is_missing(report_of, tmp_path_factory, scenario, group):
    report = report_of(scenario, group)
    names = [part.name for part in report.sections if part.panels]
    assert len(set(names)) == len(names), "each picture has a file of its own"
    for part in report.sections:
        assert part.sentence.endswith(".") and "  " not in part.sentence, part.sentence
        assert part.table or part.panels or part.sentence.startswith(("Not answered", "No fit")), part.title
        if part.table:
            assert {len(row) for row in part.table.rows} == {len(part.table.columns)} or not part.table.rows
    # Without the folder that the runs lie in, whose name is the machine's: pytest-0 is no number.
    text = markdown(report).replace("\\", "").replace(str(tmp_path_factory.getbasetemp()), "")
    assert not re.search(r"\bnan\b|\binf\b|None", text)
    assert not re.search(r"mean mean|[+-]0\.?0*(?![\d.e])|\b1 times|(\b\w+\b) \(\1\)", text), "words of a person"
    if scenario == "ends only":
        members = [experiment.name for experiment in registry.groups()[group].experiments]
        assert all(name in text for name in members)
        assert len(members) == 2 or "not run" in text


@pytest.mark.parametrize("group", ["exp01", "exp06", "contrib01"])
def test_one_seed_is_no_test(report_of, group):
    text = markdown(report_of("one seed", group))
    assert not re.search(r"p [=<] ", text)
    assert "±" not in re.sub(r"mean ± standard deviation|± [^(]*\(95% confidence\)|\b[abc] = \S+ ± \S+", "", text)


def test_the_guides_expectations_stand_in_columns_of_their_own(report_of):
    for group in FULL:
        report = report_of("three seeds", group)
        expected = {key for e in registry.groups()[group].experiments for key in e.expects}
        tables = [part.table for part in report.sections if part.table]
        about = {name for table in tables for name in table.columns if name.startswith("the guide expects: ")}
        assert len(about) == len(expected) and all(name.endswith("(unmeasured)") for name in about)
        assert not any("guide expects" in part.sentence for part in report.sections)


def test_small_groups_get_the_same_analyses_without_the_guides_figures(report_of):
    for group in ("exp02a", "exp05", "contrib01"):
        small, full = report_of("one seed", f"mini_{group}"), report_of("one seed", group)
        assert [part.title for part in small.sections] == [part.title for part in full.sections]
        assert "guide expects" in markdown(full) and "guide expects" not in markdown(small)


def test_expectations_stand_beside_no_other_data_or_scale(tmp_path):
    write_group(tmp_path / "small", "exp07", changes={"data.train_puzzles": 64, "model.hidden_size": 64})
    report = report_on("exp07", tmp_path / "small")
    assert "guide expects" not in markdown(report)
    assert dict(report.about)["expectations"].endswith("changed data.train_puzzles and model.hidden_size")
    # Fewer puzzles to score are a sample of what the guide speaks of.
    write_group(tmp_path / "sample", "exp07", changes={"data.test_puzzles": 99, "eval.max_examples": 9})
    report = report_on("exp07", tmp_path / "sample")
    assert "guide expects" in markdown(report) and "expectations" not in dict(report.about)


def test_the_data_are_those_of_the_runs(tmp_path):
    write_group(
        tmp_path, "exp07", changes={"data.source": "generated", "data.extra_clues": 1, "data.train_puzzles": 64}
    )
    report = report_on("exp07", tmp_path)
    data = dict(report.about)["data"].split("; ")
    assert {"source generated", "size 9", "train_puzzles 64", "augmentations 1,000", "extra_clues 1"} <= set(data)
    assert any("data.source generated (there hub)" in line for line in report.warnings)
    write_group(tmp_path / "b", "exp04b")
    report = report_on("exp04b", tmp_path / "b")
    assert "augmentations 10, 100, 500, 1,000 and 2,000" in dict(report.about)["data"]
    assert not any("data.source" in line for line in report.warnings)


def test_another_headline_is_told_by_its_own_name(tmp_path):
    for name, accuracy in (("exp07a", 0.8), ("exp07c", 0.9)):
        workdir = write_run(tmp_path / name, name, accuracy=accuracy, facts={"headline": "valid_optimal"})
        records = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
        records = [{**record, "valid_optimal": record["exact_accuracy"] / 2} for record in records]
        (workdir / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    report = report_on("exp07", tmp_path)
    assert "highest mean valid optimal, 0.4500" in report.answer and "exact accuracy" not in report.answer
    assert "valid_optimal" in report.csv["exp07.csv"][0]


def test_what_makes_figures_hard_to_compare_is_said(tmp_path):
    runs_of(tmp_path, {"exp04a_100": 0.0, "baseline": (0.86, 0.87)})
    write_run(tmp_path / "c", "exp04a_2000", accuracy=0.88, facts={"device_kind": "H200", "versions": {"jax": "0.11"}})
    said = "\n".join(report_on("exp04a", tmp_path).warnings)
    assert "number of updates too, from 813 (exp04a_100) to 16,276 (exp04a_2000)" in said
    assert "fewer seeds than others: exp04a_100 (1 of 2), exp04a_2000 (1 of 2)" in said
    assert "runs on different devices" in said and "different versions" in said


def test_difference_only_with_a_test_behind_it(report_of, tmp_path):
    table = report_of("three seeds", "exp01").sections[0].table
    said = column(table, "against exp01c .Welch, Holm.")
    assert said["exp01c = baseline"] == "reference"
    assert re.fullmatch(r"-0.067\d, lower \(p < 0.001\)", said["exp01a"])
    report = report_of("one seed", "exp01")
    said = column(report.sections[0].table, "against exp01c")
    assert re.fullmatch(r"-0.067\d, no test: n < 2", said["exp01a"]) and "no difference is claimed" in report.answer
    runs_of(tmp_path, {"contrib01_curriculum": (0.80, 0.84, 0.82), "baseline": (0.82, 0.83, 0.86)})
    said = section(report_on("contrib01", tmp_path), "^Exact accuracy$")
    assert "Welch's test shows no difference" in said.sentence, "near means are not called different"
    assert "no difference shown (p = " in column(said.table, "against")["contrib01_curriculum"]


def test_missing_members_stay_in_the_tables(report_of):
    report = report_of("ends only", "exp01")
    table = report.sections[0].table
    assert column(table, "^exact accuracy$")["exp01b"] == "not run"
    assert column(table, "guide expects")["exp01b"] == "0.85"
    assert "exp01b, exp01c = baseline" in report.warnings[0]
    assert "too few points: 2 different sizes" in section(report, "How accuracy grows").sentence


def test_model_size_is_fitted(tmp_path):
    for name in ("exp01a", "exp01b", "baseline", "exp01d", "exp01e", "exp01f"):
        page = write_run(tmp_path / name, name)
        parameters = int(re.search(r'"parameters": (\d+)', (page / "run.json").read_text())[1])
        for seed in (1, 2):
            accuracy = 0.88 - 0.08 * (parameters / 1483778) ** -1.2 + 0.001 * (2 * seed - 3)
            write_run(tmp_path / f"{name}-{seed}", name, seed=seed, accuracy=accuracy)
        (page / "config.json").unlink()
    fit = section(report_on("exp01", tmp_path), "How accuracy grows")
    limit = float(re.search(r"limit is ([\d.]+) ± [\d.]+ \(95% confidence\)", fit.sentence)[1])
    assert limit == pytest.approx(0.88, abs=0.002)
    # 0.08 (x / 1.48M)^-1.2 = 0.01
    point = float(re.search(r"within 0.01 of it from ([\d,]+) parameters", fit.sentence)[1].replace(",", ""))
    assert point == pytest.approx(1483778 * 8 ** (1 / 1.2), rel=0.15)
    assert (
        "exp01d (hidden_size 768, num_heads 8) is the smallest within 0.01 of the best mean, exp01f's 0.8784"
        in fit.sentence
    )


def test_no_saturation_where_the_largest_is_best_by_far(tmp_path):
    runs_of(tmp_path, {"exp01a": 0.80, "exp01b": 0.83, "baseline": 0.86})
    said = section(report_on("exp01", tmp_path), "How accuracy grows").sentence
    assert (
        "num_heads 8) is the smallest within 0.01 of the best mean, exp01c's 0.86" in said
        and "no saturation is seen" in said
    )


def test_efficiency_is_of_parameters_and_time(report_of):
    part = section(report_of("three seeds", "exp01"), "per parameter and time")
    assert (
        "exp01a (hidden_size 256, num_heads 4) has the highest mean exact accuracy per million parameters and hour"
        in part.sentence
    )


def test_levels_that_were_not_reached_say_so(report_of):
    part = section(report_of("three seeds", "exp01"), "^Time to 0.8, 0.85 and 0.87$")
    assert column(part.table, "0.85")["exp01a"] == "not reached"
    assert re.fullmatch(r"[\d.]+ ± \d.* \(n = 3\)", column(part.table, "0.8 ")["exp01b"])
    assert re.search(r"Not every seed reaches 0.85 in exp01a \(0 of 3\) and exp01b \([12] of 3\)\.", part.sentence)


def test_a_level_that_some_seeds_reach_is_no_mean_of_the_lucky(tmp_path):
    runs_of(tmp_path, {"baseline": (0.84, 0.86)})
    part = section(report_on("contrib01", tmp_path), "^Epochs to")
    assert column(part.table, "0.85")["contrib01_baseline = baseline"] == "50,000 (n = 1), 1 not reached"
    assert "No arm reaches 0.85 with every seed. Not every seed reaches 0.85 in contrib01_baseline (1 of 2)." in (
        part.sentence
    )


def test_cycles_at_equal_depth(report_of):
    part = section(report_of("three seeds", "exp02a"), "equal depth")
    assert [(row[0], row[2], row[5]) for row in part.table.rows] == [
        ("exp02b_01 (H_cycles 1)", "6", "exp02a_01 (L_cycles 2)"),
        ("exp02b_02 (H_cycles 2)", "12", "exp02a_02 (L_cycles 4)"),
        ("exp02b_04 (H_cycles 4)", "24", "exp02a_04 (L_cycles 8)"),
        ("exp02b_05 (H_cycles 5)", "30", "exp02a_05 (L_cycles 10)"),
    ]
    assert (part.table.rows[0][3], part.table.rows[0][8]) == ("14", "18"), "layer applications"
    assert part == section(report_of("three seeds", "exp02b"), "equal depth"), "both pages show the same"
    alone = section(report_of("ends only", "exp02a"), "equal depth").sentence
    assert alone.startswith("Not answered: no finished runs of exp02b")


def test_an_optimum_inside_and_at_the_edge(report_of, tmp_path):
    assert "at the edge of what was run" in report_of("three seeds", "exp02a").answer
    runs_of(tmp_path, {"exp02a_01": 0.5, "exp02a_02": 0.9, "exp02a_05": 0.7})
    assert "inside the range of L cycles" in report_on("exp02a", tmp_path).answer


def test_the_gap_is_training_less_held_out(report_of):
    table = section(report_of("one seed", "exp02a"), "gap").table
    known, held_out, gap = (
        float(column(table, name)["exp02a_01"].split()[0]) for name in ("^training", "^exact", "^train-test gap$")
    )
    assert gap == pytest.approx(known - held_out, abs=1e-4) and gap > 0.02


def test_both_notions_of_depth(report_of):
    table = section(report_of("three seeds", "exp03"), "Exact accuracy").table
    assert list(column(table, "the guide's").values()) == ["36", "18", "12", "9", "6"]
    assert list(column(table, "the paper's").values()) == ["39", "42", "45", "48", "54"]
    assert {"compute of an update (TFLOP)", "training compute (EFLOP)"} < set(table.columns)


def test_fronts_against_speed_parameters_and_memory(tmp_path):
    for name, accuracy, speed in (("exp03a", 0.8, 100.0), ("baseline", 0.85, 200.0), ("exp03c", 0.84, 300.0)):
        write_run(tmp_path / "cpu" / name, name, accuracy=accuracy, examples_per_s=speed)
        write_run(tmp_path / "gpu" / name, name, accuracy=accuracy, facts={"backend": "gpu"})
    report = report_on("exp03", tmp_path / "cpu")
    part = report.sections[0]
    assert list(column(part.table, "front of throughput").values()) == ["no", "yes", "yes", "not run", "not run"]
    assert list(column(part.table, "front of parameters").values()) == ["yes", "yes", "no", "not run", "not run"]
    assert "against throughput, exp03b and exp03c; against compute of an update, exp03a and exp03b" in report.answer
    # On a CPU memory is that of a process.
    assert not heads(part.table, "front of peak memory") and column(part.table, "peak")["exp03a"] == "not recorded"
    part = report_on("exp03", tmp_path / "gpu").sections[0]
    assert len(heads(part.table, "on the front of")) == len(part.panels) == 4


def test_the_smallest_number_of_puzzles(report_of, tmp_path):
    table = section(report_of("three seeds", "exp04a"), "each doubling").table
    gains = [float(row[-1]) for row in table.rows]
    assert gains[0] > gains[-1] > 0
    runs_of(tmp_path, {"exp04a_500": 0.80, "baseline": 0.86, "exp04a_2000": 0.84, "exp04a_5000": 0.88})
    answer = report_on("exp04a", tmp_path).answer
    assert re.search(
        "0.85 is reached at 1,000 training puzzles, though not by all above .*first by exp04a_1000", answer
    )
    assert "after 8,138 updates" in answer


@pytest.mark.parametrize(
    "better, answer", [("puzzles", "no full substitute"), ("variants", "fewer puzzles are worth more")]
)
def test_augmentation_as_a_substitute(tmp_path, better, answer):
    many, few = (0.87, 0.80) if better == "puzzles" else (0.80, 0.87)
    ends = {"exp04a_100": few, "exp04b_0100": many, "exp04a_2000": many, "exp04b_2000": few}
    runs_of(tmp_path, {name: tuple(end + 0.001 * seed for seed in range(3)) for name, end in ends.items()})
    part = section(report_on("exp04b", tmp_path), "substitute")
    assert answer in part.sentence
    assert [(row[0].split()[0], row[4].split()[0]) for row in part.table.rows] == [
        ("exp04b_0100", "exp04a_100"), ("exp04a_2000", "exp04b_2000"),
    ]  # fmt: skip


def test_inference_and_halting(report_of, tmp_path):
    report = report_of("three seeds", "exp05")
    flops = column(report.sections[0].table, "inference compute")
    assert float(flops["exp05_f"]) == pytest.approx(2 * float(flops["exp05_d = baseline"]), rel=1e-3)
    part = section(report, "When it halts")
    assert part.sentence.startswith("It halts early: ")
    shown = {panel.title: panel for panel in part.panels}["Where held-out puzzles would halt"]
    assert len(shown.series) == 6 and all(sum(series.y) == pytest.approx(1) for series in shown.series)
    write_group(tmp_path, "exp05", halt_step=200.0)
    assert "It mostly does not halt early: " in report_on("exp05", tmp_path).answer


def test_an_only_step_is_no_early_one(tmp_path):
    write_group(tmp_path, "mini_exp05", halt_step=1.0)
    report = report_on("mini_exp05", tmp_path)
    assert re.search(r"It halts early: [\d.]+% \(mini_exp05_[b-f]\) to [\d.]+% \(mini_exp05_[b-f]\)", report.answer)
    assert "mini_exp05_a" not in section(report, "When it halts").sentence, "nor is its halt step the least"


def batches(root, shares: dict):
    """Runs of exp06 that reach 0.85 after shares of their updates."""
    for name, share in shares.items():
        write_run(root / name, name, accuracy=0.9, reaches=(0.85, share - 1e-9))
    return section(report_on("exp06", root), "Critical batch")


def test_the_linear_regime_and_the_critical_batch(tmp_path):
    sizes = {"exp06_b": 3072, "baseline": 6144, "exp06_d": 12288, "exp06_e": 24576}
    # Tenths of the examples, as evaluations are: a critical batch of 6144.
    part = batches(tmp_path, {name: 0.2 + 0.2 * batch / 6144 for name, batch in sizes.items()})
    said = re.search(r"fitted critical batch is ([\d,]+), between ([\d,]+) and ([\d,]+)", part.sentence)
    critical, low, high = (float(number.replace(",", "")) for number in said.groups())
    assert critical == pytest.approx(6144, rel=0.01), "updates are whole numbers"
    assert 0.98 * critical < low <= critical <= high < 1.02 * critical
    assert "(95% confidence, n = 4 runs)" in part.sentence
    assert "The linear regime goes up to batch 3,072" in part.sentence
    efficiency = column(part.table, "smallest batch's over")
    assert [efficiency[name] for name in ("exp06_b", "exp06_c = baseline", "exp06_d")] == ["1.00", "0.75", "0.50"]


def test_a_critical_batch_that_runs_do_not_determine_is_said(report_of, tmp_path):
    # The share of the examples that each takes: it hardly grows with the batch, and unevenly.
    part = batches(tmp_path, {"exp06_b": 0.5, "baseline": 0.4, "exp06_d": 0.6, "exp06_e": 0.6})
    assert re.search(r"These runs do not determine the critical batch \(.*\); the fit's is [\d,]+\.", part.sentence)
    assert "fit, not determined" in {series.label for series in part.panels[0].series}
    said = section(report_of("one seed", "exp06"), "Critical batch").sentence
    assert "The linear regime goes up to batch 49,152" in said and "critical batch is beyond these" in said


def test_precision_relative_to_float32(report_of):
    report = report_of("three seeds", "exp07")
    table = section(report, "Time, speed and memory").table
    assert list(column(table, "throughput, times exp07a's").values()) == ["1.00", "0.50", "0.33"]
    stable = section(report, "Loss variance").table
    assert column(stable, "skipped")["exp07a"] == "not recorded"
    assert column(stable, "skipped")["exp07c"].startswith("50")


def test_averages_of_the_same_run(report_of, tmp_path):
    write_group(tmp_path, "exp08", seeds=3, changes={"optim.ema_also": "0"})
    part = section(report_on("exp08", tmp_path), "same run")
    # Differences of 0.02, 0.021 and 0.022: t = 0.021 / (0.001 / sqrt(3)), two degrees of freedom.
    said = column(part.table, "averaged less live")
    assert re.fullmatch(r"\+0.0210, higher \(p = 0.00\d\)", said["exp08c"]) and said["exp08a"] == "not known"
    assert "in exp08c +0.0210, higher" in part.sentence
    said = section(report_of("three seeds", "exp08"), "same run").sentence
    assert said.startswith("Not answered") and "optim.ema_also=0" in said


def test_beta2_only_where_it_was_varied(report_of):
    part = section(report_of("three seeds", "exp09"), "beta2")
    assert {row[1] for row in part.table.rows} == {"adamw"} and len(part.table.rows) == 3
    assert part.sentence.startswith("With adamw, exp09d (optimiser adamw, beta2 0.999) has the highest mean")


def test_decay_against_constant(report_of):
    part = report_of("three seeds", "exp10").sections[0]
    assert "Of the constant rates, exp10c" in part.sentence and "against exp10b: +0.0" in part.sentence
    assert [(row[0].split()[0], row[2].split()[0]) for row in part.table.rows] == [
        ("exp10d", "exp10b"), ("exp10e", "exp10b"),
    ]  # fmt: skip


def test_halting_at_equal_accuracy(tmp_path):
    for seed in range(3):
        write_run(tmp_path / f"b{seed}", "baseline", seed=seed, accuracy=0.80, halt_step=8.0 + 0.1 * seed)
        write_run(tmp_path / f"a{seed}", "contrib02_adaptive", seed=seed, accuracy=0.87, halt_step=4.0 + 0.1 * seed)
    part = report_on("contrib02", tmp_path).sections[0]
    accuracies = column(part.table, "accuracy there")
    assert float(accuracies["contrib02_adaptive"].split()[0]) >= 0.8
    assert accuracies["contrib02_baseline = baseline"].startswith("0.8000")
    updates = {n: float(text.split()[0].replace(",", "")) for n, text in column(part.table, "^update there").items()}
    assert updates["contrib02_adaptive"] < updates["contrib02_baseline = baseline"]
    assert (
        "contrib02_adaptive (halt_exploration_prob 0.3, halt_exploration_end 0.05) has the lowest mean halt step there"
        in part.sentence
    )
    assert re.search(
        r"contrib02_adaptive [\d.]+ supervision steps below contrib02_baseline \(p < 0.001\)", part.sentence
    )


def test_goodput_stands_beside_the_costs(report_of, tmp_path):
    for seed, lost in enumerate((0.0, 20.0)):
        spent = {"train": 60.0, "compile": 20.0, "lost": lost, "down": 10 * lost}
        write_run(tmp_path / f"a{seed}", "exp07a", seed=seed, spent=spent, lives=2 * seed + 1)
    write_run(tmp_path / "b", "baseline")  # of an older version
    cells = column(section(report_on("exp07", tmp_path), "Time, speed").table, "^goodput")
    assert cells["exp07a"] == "0.6750 ± 0.1061 (n = 2)"
    assert (cells["exp07b = baseline"], cells["exp07c"]) == ("not recorded", "not run")
    assert not heads(section(report_of("three seeds", "exp07"), "Time, speed").table, "goodput")


def test_declaring_experiments_loads_no_report():
    """Every command reads the declarations; a part of the reports is loaded when its name is first used."""
    for file in registry.experiments_folder().glob("*.py"):
        text = file.read_text()
        assert set(re.findall(".*trm_jax.reports.*", text)) <= {"import trm_jax.reports as r"}
        outside = [node for node in ast.parse(text).body if not isinstance(node, ast.FunctionDef)]
        assert not [one for node in outside for one in ast.walk(node) if isinstance(one, ast.Name) and one.id == "r"]
