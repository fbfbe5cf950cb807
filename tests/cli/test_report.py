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
    assert {"exp07.html", "exp07.md", "exp07.csv", "exp07_runs.csv", "exp07_accuracy.png"} <= files
    assert "- command: trm report exp07\n" in (tmp_path / "reports" / "exp07" / "exp07.md").read_text()


def test_many_groups_into_one_folder(here, tmp_path):
    write_group(tmp_path / "elsewhere", "contrib01")
    write_group(tmp_path / "elsewhere", "contrib02")
    result = here("report", "contrib", "--root", "elsewhere", "--output", "pages", "--levels", "0.5", "0.7")
    assert result.code == 0, result.err
    assert {path.name for path in (tmp_path / "pages").glob("*.html")} == {"contrib01.html", "contrib02.html"}
    page = (tmp_path / "pages" / "contrib01.md").read_text()
    assert "trm report contrib01 --root elsewhere --levels 0.5 0.7 --output pages" in page
    assert "Epochs to 0.5 and 0.7" in page


def test_what_can_be_made_is_made(refused, tmp_path):
    write_run(tmp_path / "runs" / "exp07a", "exp07a")
    said = refused("report", "exp07", "exp09", "--output", "pages")
    assert said.startswith("no runs of exp09 in runs") and said.endswith("(1 of 2 reports were made)")
    assert (tmp_path / "pages" / "exp07.html").exists()


def test_what_is_missing_is_said_on_standard_error(here, tmp_path):
    write_run(tmp_path / "runs" / "exp07a", "exp07a")
    write_run(tmp_path / "runs" / "exp07c", "exp07c", evaluations=3)
    result = here("report", "exp07")
    assert result.code == 0
    assert "mind: not run (or not finished): exp07b = baseline, exp07c" in result.err
    assert "mind: left out, unfinished: runs/exp07c" in result.err
    result = here("report", "exp07", "--unfinished")
    assert "mind: unfinished, with its last evaluation so far: runs/exp07c" in result.err
    page = (tmp_path / "reports" / "exp07" / "exp07.md").read_text()
    assert "exp07c \\*" in page and "trm report exp07 --unfinished" in page


@pytest.mark.parametrize(
    "argv, words",
    [
        (["exp07"], r"no runs of exp07 in runs: looked for exp07a, baseline, exp07c; make them with trm sweep exp07"),
        (["exp77"], r"no experiment and no group matches 'exp77'.* Did you mean .*exp07"),
        (["runs"], r"no runs of anything in runs"),
        (["exp07", "--levels", "2"], r"argument --levels: '2' is not an accuracy above 0"),
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
    assert "scored on different examples" in refused("report", "exp07")


def test_a_real_run(trm, solver, tmp_path):
    """What training writes is what reports read."""
    result = trm.run("report", solver.workdir, "--output", tmp_path / "page")
    assert result.code == 0, result.err
    with open(tmp_path / "page" / "selection.csv") as file:
        (row,) = csv.DictReader(file)
    last = tiny.records(solver.workdir, "eval")[-1]
    assert float(row["exact_accuracy_mean"]) == last["exact_accuracy"] and row["exact_accuracy_n"] == "1"
    assert int(float(row["parameters_mean"])) > 10_000 and float(row["seconds_mean"]) > 0
    assert float(row["examples_per_s_mean"]) > 0 and float(row["peak_memory_bytes_mean"]) > 1e7
    assert row["early_exit_steps_mean"] and row["halt_variance_mean"] and row["train_steps_mean"]
    page = (tmp_path / "page" / "selection.md").read_text().replace(str(tmp_path), "")
    assert "jax" in page and "cpu" in page and "nan" not in page
    with open(tmp_path / "page" / "selection_runs.csv") as file:
        (run,) = csv.DictReader(file)
    assert run["starts"] == "1" and 0 < float(run["share_train"]) < 1 and float(run["share_lost"]) == 0
    shares = ("train", "compile", "data", "evaluation", "checkpoint", "setup")
    assert sum(float(run[f"share_{kind}"]) for kind in shares) == pytest.approx(1)
    assert "## Where the time went" in page and " of the time trained; most of the rest was " in page


def test_a_damaged_count_of_the_time(refused, tmp_path):
    workdir = write_run(tmp_path / "runs" / "exp07a", "exp07a")
    (workdir / "goodput.json").write_text("[")
    said = "runs/exp07a/goodput.json is not JSON ("
    assert refused("report", "exp07").startswith(said) and refused("compare", "runs/exp07a").startswith(said)


def test_compare(trm, solver, tmp_path):
    other = write_run(tmp_path / "half", "sudoku4", evaluations=5, changes={"optim.name": "lion", "data.source": "hub"})
    result = trm.run("compare", solver.workdir, other, "--output", tmp_path / "both.png")
    assert result.code == 0, result.err
    assert (tmp_path / "both.png").read_bytes().startswith(b"\x89PNG")
    words = " ".join(result.out.split())
    assert "what differs" in words and "150 of 300" in words and "200" in words
    # They were scored on different puzzles: one report cannot be on both.
    assert result.out.endswith(f"curves: {tmp_path / 'both.png'}\nnext: trm report {solver.workdir}\n")
    assert "optimiser lion" in words
    assert "mind: these runs were scored on different examples" in result.err
    assert f"mind: hub data in place of the experiment's (generated): {other}" in result.err


def test_the_report_that_follows_a_comparison(here, tmp_path):
    write_run(tmp_path / "a b", "sudoku4")
    write_run(tmp_path / "half", "sudoku4", evaluations=5)
    assert here("compare", "a b").out.endswith("next: trm report 'a b'\n")
    following = here("compare", "a b", "half").out.splitlines()[-1]
    assert following == "next: trm report 'a b' half --unfinished"
    assert here(*shlex.split(following)[2:]).code == 0


def test_what_cannot_be_compared(refused, tmp_path):
    write_run(tmp_path / "a", "sudoku4")
    write_run(tmp_path / "new", "sudoku4", evaluations=0)
    assert "a is not a run" not in refused("compare", "a", "a") and "named twice" in refused("compare", "a", "a")
    assert "nothing is not a run" in refused("compare", "a", "nothing")
    assert "'new' has no figures yet" in refused("compare", "a", "new")
    assert "let the name end in .png" in refused("compare", "a", "--output", "a.gif")
