"""`trm report` and `trm compare`: from the command line to the files."""

import csv
import re
import shlex

import pytest

from tests import tiny
from tests.reports.synthetic import write_group, write_run


def test_a_group(here, tmp_path):
    write_group(tmp_path / "runs", "exp07", seeds=2)
    result = here("report", "exp07")
    assert result.code == 0 and result.err == ""
    assert result.out.startswith("exp07: exp07c (dtype float16) has the highest mean exact accuracy, 0.86")
    assert result.out.endswith("next: open reports/exp07/exp07.html\n")
    files = {path.name for path in (tmp_path / "reports" / "exp07").iterdir()}
    assert {"exp07.html", "exp07.md", "exp07.csv", "exp07_accuracy.png"} <= files
    assert "- command: trm report exp07\n" in (tmp_path / "reports" / "exp07" / "exp07.md").read_text()


def test_many_groups_into_one_folder(here, tmp_path):
    write_group(tmp_path / "elsewhere", "contrib01")
    write_group(tmp_path / "elsewhere", "contrib02")
    result = here("report", "contrib", "--root", "elsewhere", "--output", "pages")
    assert result.code == 0, result.err
    assert {path.name for path in (tmp_path / "pages").glob("*.html")} == {"contrib01.html", "contrib02.html"}
    page = (tmp_path / "pages" / "contrib01.md").read_text()
    assert "trm report contrib01 --root elsewhere --output pages" in page
    assert "Epochs to 0.85 and 0.87" in page


def test_what_can_be_made_is_made(refused, tmp_path):
    write_run(tmp_path / "runs" / "exp07a", "exp07a")
    said = refused("report", "exp07", "exp09", "--output", "pages")
    assert said.startswith("no finished runs of exp09 in runs") and said.endswith("(1 of 2 reports were made)")
    assert (tmp_path / "pages" / "exp07.html").exists()


def test_what_is_missing_is_said_on_standard_error(here, tmp_path):
    write_run(tmp_path / "runs" / "exp07a", "exp07a")
    write_run(tmp_path / "runs" / "exp07c", "exp07c", evaluations=3)
    result = here("report", "exp07")
    assert result.code == 0
    assert "mind: not run (or not finished): exp07b = baseline, exp07c" in result.err
    assert "mind: left out, unfinished: runs/exp07c" in result.err


@pytest.mark.parametrize(
    "argv, words",
    [
        (
            ["exp07"],
            r"no finished runs of exp07 in runs: looked for exp07a, baseline, exp07c; trm sweep exp07 makes them",
        ),
        (["exp77"], r"no experiment and no group matches 'exp77'.* Did you mean .*exp07"),
        (["runs"], r"no finished runs in runs: nothing is there"),
        (["exp07", "--root", "s3://bucket/runs"], r".*neither a path of this machine nor gs://"),
        ([], r"the following arguments are required"),
    ],
)
def test_what_cannot_be_reported(refused, tmp_path, argv, words):
    (tmp_path / "runs").mkdir()
    assert re.match(words, refused("report", *argv))
    assert not (tmp_path / "reports").exists()


def test_different_puzzles_are_refused(refused, tmp_path):
    write_run(tmp_path / "runs" / "exp07a", "exp07a", eval_set="one")
    write_run(tmp_path / "runs" / "exp07c", "exp07c", eval_set="other")
    assert "differ in the examples scored: eval_set one of 500" in refused("report", "exp07")


@pytest.mark.slow
def test_a_real_run(here, tmp_path):
    """What training writes is what reports read."""
    tiny.train_here(tmp_path / "run", {"train.steps": 6, "eval.every_steps": 3, "log.every_steps": 1})
    result = here("report", "run", "--output", "page")
    assert result.code == 0, result.err
    with open(tmp_path / "page" / "selection.csv") as file:
        (row,) = csv.DictReader(file)
    last = tiny.records(tmp_path / "run", "eval")[-1]
    assert float(row["exact_accuracy"]) == last["exact_accuracy"]
    assert int(row["parameters"]) > 10_000 and float(row["seconds"]) > 0 and float(row["examples_per_s"]) > 0
    assert row["early_exit_steps"] and row["halt_variance"] and not row["peak_memory_bytes"]
    page = (tmp_path / "page" / "selection.md").read_text().replace(str(tmp_path), "")
    assert "jax" in page and "cpu" in page and "nan" not in page
    assert 0 < float(row["goodput"]) < 1


def test_a_damaged_count_of_the_time(refused, tmp_path):
    write_run(tmp_path / "runs" / "exp07a", "exp07a", spent={"train": 9.0})
    workdir = write_run(tmp_path / "runs" / "exp07c", "exp07c")
    (workdir / "goodput.json").write_text("[")
    assert refused("report", "exp07").startswith("runs/exp07c/goodput.json does not say where")


def test_compare(here, tmp_path):
    write_run(tmp_path / "whole", "sudoku4")
    write_run(tmp_path / "half", "sudoku4", evaluations=5, changes={"optim.name": "lion"}, eval_set="other")
    result = here("compare", "whole", "half", "--output", "both.png")
    assert result.code == 0, result.err
    assert (tmp_path / "both.png").read_bytes().startswith(b"\x89PNG")
    words = " ".join(result.out.split())
    assert "what differs" in words and "150 of 300" in words and "0.8600" in words and "optimiser lion" in words
    # They were scored on different puzzles: one report cannot be on both.
    assert result.out.endswith("curves: both.png\nnext: trm report whole\n")
    assert "mind: these runs were scored on different examples" in result.err


def test_data_that_were_replaced_are_told(here, tmp_path):
    for seed in (0, 1):
        write_run(tmp_path / f"run{seed}", "exp07a", seed=seed, changes={"data.source": "generated"})
    said = "mind: changed from the experiment: data.source generated (there hub) in all runs"
    assert said in here("compare", "run0", "run1").err and said in here("report", "run0", "run1").err


def test_the_report_that_follows_a_comparison(here, tmp_path):
    write_run(tmp_path / "a b", "sudoku4")
    write_run(tmp_path / "half", "sudoku4", evaluations=5)
    assert here("compare", "a b").out.endswith("next: trm report 'a b'\n")
    following = here("compare", "a b", "half").out.splitlines()[-1]
    assert following == "next: trm report 'a b'", "half has no evaluation of record"
    assert here(*shlex.split(following)[2:]).code == 0


def test_what_cannot_be_compared(refused, tmp_path):
    write_run(tmp_path / "a", "sudoku4")
    write_run(tmp_path / "new", "sudoku4", evaluations=0)
    assert "a is not a run" not in refused("compare", "a", "a") and "named twice" in refused("compare", "a", "a")
    assert "nothing is not a run" in refused("compare", "a", "nothing")
    assert "'new' has no figures yet" in refused("compare", "a", "new")
    assert "let the name end in .png" in refused("compare", "a", "--output", "a.gif")


def test_families_are_compared_at_equal_cost(here, tmp_path):
    """Runs of one experiment are one arm, and the budget is what the unfinished ones have spent."""
    for seed in (0, 1):
        write_run(tmp_path / f"trm{seed}", "rivals_trm", seed=seed, accuracy=0.8 + seed / 100)
        write_run(tmp_path / f"hrm{seed}", "rivals_hrm", seed=seed, accuracy=0.9 + seed / 100, evaluations=5)
    result = here("compare", "trm0", "trm1", "hrm0", "hrm1")
    assert result.code == 0, result.err
    words = " ".join(result.out.split())
    assert "At equal training compute. With 822.2 GFLOP each, as much as rivals_hrm takes: " in words
    assert "At equal time." in words and "At equal size." in words and words.count("(n = 2)") >= 6
    assert "as coarse as the evaluations" in result.err
    assert "At equal" not in here("compare", "trm0", "trm1").out


def test_the_same_run_twice_is_one_seed_where_there_is_a_test(here, tmp_path):
    for folder in ("a", "b"):
        write_run(tmp_path / folder, "rivals_trm")
    assert "left out" not in here("compare", "a", "b").err
    write_run(tmp_path / "hrm", "rivals_hrm")
    assert "mind: left out: b has the settings and the seed 0 of a" in here("compare", "a", "b", "hrm").err


def test_families_that_were_scored_on_different_examples_are_not_compared(here, tmp_path):
    write_run(tmp_path / "trm", "rivals_trm")
    write_run(tmp_path / "hrm", "rivals_hrm", eval_set="other")
    result = here("compare", "trm", "hrm")
    assert "scored on different examples" in result.err and "At equal" not in result.out
