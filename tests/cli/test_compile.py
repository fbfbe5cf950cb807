"""`trm compile`: what it says of results that are there, and to input that is wrong. No compiler is loaded here."""

import json

import pytest

from tests.aot.conftest import RESULT, overflow, pretend_libtpu
from trm_jax.aot import compile as aot

SMALL = ("--set", "train.batch_size=64", "eval.batch_size=64")


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")  # the command sets it too: this one is taken back
    pretend_libtpu(monkeypatch, "0.0.1")


@pytest.fixture
def compiled(monkeypatch):
    """compiled(result): every program becomes that, without a compiler."""

    def use(result):
        monkeypatch.setattr(aot, "compile_program", lambda *_: result)

    return use


def test_a_table_a_page_and_all_figures(here, compiled, tmp_path):
    compiled(RESULT)
    files = ("--json", tmp_path / "out.json", "--output", tmp_path / "page.md")
    result = here("compile", "exp02a_02", "exp02a_03", "--topology", "v4-64", *files)
    assert result.code == 0, result.err
    assert result.out.startswith("TPU v4-64: 32 chips, 2x4x4, on 8 hosts; a program may use 33.0 GB (30.75 GiB)")
    assert "baseline is also exp02a_03" in result.out and "assumed: links: what a chip must send" in result.out
    assert "baseline: train L 6 H 3 ... 0 s\nbaseline: eval L 6 H 3 ... 0 s\n" in result.err
    assert result.out.splitlines()[-1] == "next: trm plan exp02a_02 exp02a_03 --device v4-64"
    assert [run["name"] for run in json.loads((tmp_path / "out.json").read_text())] == ["baseline", "exp02a_02"]
    page = (tmp_path / "page.md").read_text()
    assert "Made by `trm compile exp02a_02 exp02a_03 --topology v4-64 --output" in page
    assert "| baseline | 8,138 |" in page


def test_one_that_does_not_fit_is_a_no(here, compiled):
    compiled(overflow(60 * 10**9, 33 * 10**9))
    result = here("compile", "baseline")
    assert result.code == 1
    assert "note: baseline: training needs 60.0 GB a chip and v4-64 has 33.0 for it: set train.accum" in result.out


def test_help_has_examples(here):
    result = here("compile", "--help")
    assert result.code == 0 and "trm compile exp06 --topology v4-64 --json exp06.json" in result.out


@pytest.mark.parametrize(
    "argv, words",
    [
        ((), "required: NAME|GROUP|PATTERN"),
        (("exp99",), "no experiment and no group matches 'exp99'"),
        (("baseline", "--topology", "v4-63"), "there is no slice v4-63: v4 comes in 8, 16, 24"),
        (("baseline", "--topology", "h100"), "h100 is no TPU slice of a known shape; take one such as v4-8, v4-16"),
        (("baseline", "--set", "mesh.data=3"), "baseline: mesh {'data': 3"),
        (("exp06", "--set", "train.accumulation=7"), "does not divide into train.accumulation=7"),
        (("baseline", "--set", "train.batch_size=6160"), "baseline: train.batch_size 6160 is not divisible by the 32"),
        (("baseline", "--set", "eval.batch_size=100"), "baseline: eval.batch_size 100 is not divisible by the 32"),
        (("baseline", "--set", "data.train_puzzles=0"), "data.train_puzzles is 0, all of the source"),
        (("baseline", "--output", "."), "is a folder; name a file"),
        (("baseline", "--json", "gs://bucket/x.json"), "gs://bucket/x.json is not on this machine"),
    ],
)
def test_bad_input(refused, argv, words):
    assert words in refused("compile", *argv)


def test_nothing_is_overwritten_unasked(refused, tmp_path):
    (tmp_path / "page.md").write_text("mine")
    assert "page.md exists" in refused("compile", "baseline", "--output", "page.md")
    assert (tmp_path / "page.md").read_text() == "mine"


def test_without_libtpu_the_command_that_installs_it_is_named(refused, monkeypatch):
    pretend_libtpu(monkeypatch, None)
    assert "-m pip install 'jax[tpu]'" in refused("compile", "demo", "--topology", "v4-8", *SMALL)
