"""`trm plan`: what it counts, what it warns of, and what it says to input that is wrong."""

import re

import pytest


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")  # the command sets it too: this one is taken back


def row(out: str, name: str) -> list[str]:
    """The cells of one line of the table."""
    [line] = [line for line in out.splitlines() if re.match(rf"\s*{re.escape(name)}\s\s", line)]
    return re.split(r"\s{2,}", line.strip())


def test_one_run(here):
    result = here("plan", "baseline")
    assert result.code == 0, result.err
    assert row(result.out, "baseline") == [
        "baseline", "8,138", "5,028,866", "2.14e+18", "10", "1.73e+18", "5.8", "10.1 min", "8.2 min", "-"
    ]  # fmt: skip
    head = result.out.splitlines()
    assert head[0].startswith("TPU v4-64, 32 chips on 8 hosts; a chip: 32 GB, 1.2 TB/s, 275 TFLOP/s")
    assert (
        "of which 40%; data sheets, 2025-12-09" in head[0] and head[1] == "no price in the table; give one with --price"
    )
    assert "note: evaluations cost 81% of the training's FLOPs" in result.out
    assert head[-1] == "next: trm train baseline"


def test_a_group_counts_aliases_once_and_seeds_as_often(here):
    one = here("plan", "exp03", "--device", "h100")
    thrice = here("plan", "exp03", "--device", "h100", "--seeds", "3")
    assert "baseline, counted once, is also exp03b" in one.out
    total, tripled = row(one.out, "5 runs"), row(thrice.out, "5 runs x 3 seeds")
    assert (total[1], tripled[1]) == ("40,690", "122,070")
    prices = [float(row(one.out, name)[-1]) for name in ("baseline", "exp03a", "exp03c", "exp03d", "exp03e")]
    assert float(total[-1]) == pytest.approx(sum(prices), abs=0.05)
    assert float(tripled[-1]) == pytest.approx(3 * sum(prices), abs=0.15)
    assert "3.89 dollars an hour: the users' documents" in one.out and "another document says 8-12" in one.out
    assert "note: exp03e: about " in one.out and "set train.accumulation=" in one.out
    assert "next: trm sweep exp03" in one.out


def test_asked_for_twice_is_counted_once(here):
    result = here("plan", "baseline", "exp02a_03", "exp03b")
    assert len(re.findall(r"^ *baseline  ", result.out, re.MULTILINE)) == 1
    assert "baseline, counted once, is also exp02a_03, exp03b" in result.out


def test_help_has_examples(here):
    result = here("plan", "--help")
    assert result.code == 0 and "examples:" in result.out and "trm plan exp02a --device h100" in result.out


def test_figures_can_be_given(here):
    result = here(
        *("plan", "baseline", "--device", "h200", "--utilisation", "1", "--peak", "400"),
        *("--memory", "500", "--price", "2", "--set", "eval.max_examples=1000", "eval.every_epochs=0"),
    )
    cells = row(result.out, "baseline")
    assert cells[4] == "1" and cells[7] == "1.5 h" and float(cells[-1]) == pytest.approx(2 * 1.48, abs=0.02)
    assert "but as given: peak, memory, price" in result.out and "2 dollars an hour: as given" in result.out
    assert "note:" not in result.out
    assert "H200 (measured: 790 TFLOP/s" in result.out


def test_notes_of_runs_that_end_in_the_warm_up(here):
    result = here("plan", "exp04a_100", "exp06_f")
    assert "note: exp04a_100: all of the 813 steps lie inside the warm-up of 2,000" in result.out
    assert "note: exp06_f: all of the 1,017 steps" in result.out


def test_no_figure_is_cut_off(here, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    result = here("plan", "baseline", "exp*", "contrib*", "--seeds", "1000")
    assert "…" not in result.out
    assert len(row(result.out, "contrib02_adaptive")) == 10


@pytest.mark.parametrize(
    "argv, words",
    [
        ((), "required: NAME|GROUP|PATTERN"),
        (("exp99",), "no experiment and no group matches 'exp99'. Did you mean exp09"),
        (("baseline", "--device", "v4-63"), "there is no slice v4-63: v4 comes in 8, 16, 24, ... 8192"),
        (("baseline", "--device", "h101"), "no device 'h101' in the table. Did you mean h100"),
        (("baseline", "--utilisation", "40"), "the utilisation is 40; give a share of the peak"),
        (("baseline", "--utilisation", "nan"), "nan is not a positive number"),
        (("baseline", "--price", "-1"), "-1 is not a positive number"),
        (("baseline", "--price", "cheap"), "argument --price: invalid amount value: 'cheap'"),
        (("baseline", "--price", "1e308"), "1e308 is not a positive number from 1e-06 to 1e+09"),
        (("baseline", "--utilisation", "1e-300"), "1e-300 is not a positive number"),
        (("baseline", "--memory", "inf"), "inf is not a positive number"),
        (("baseline", "--seeds", "0"), "'0' is not a whole number of at least 1"),
        (("baseline", "--seeds", "9" * 400), "is too large"),
        (("baseline", "--set", f"train.steps={2**63 - 1}"), "steps is more than 1,000,000,000; lower train.steps"),
        (("baseline", "--set", f"train.epochs={2**63 - 1}"), "steps is more than 1,000,000,000; lower train.steps"),
        (("baseline", "--set", "train.stebs=3"), "unknown setting 'train.stebs'. Did you mean train.steps"),
        (("baseline", "--set", "data.train_puzzles=0"), "data.train_puzzles is 0, all of the source"),
        (("baseline", "--set", "mesh.data=3"), "does not fit 32 devices"),
        (("baseline", "--set", "train.epochs=1", "data.train_puzzles=100"), "is less than one batch of 6144"),
    ],
)
def test_bad_input(refused, argv, words):
    assert words in refused("plan", *argv)
