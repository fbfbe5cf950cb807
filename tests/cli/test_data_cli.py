"""`trm data sudoku` as a user types it, through the real entry point."""

import json
import shlex

import pytest

from trm_jax.cli.main import main


@pytest.fixture
def trm(capsys):
    """trm("command line") -> (exit code, stdout, stderr)."""

    def call(line):
        code = main(["data", "sudoku", *shlex.split(line)])
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def puzzles(trm, tmp_path):
    folder = tmp_path / "puzzles"
    assert trm(f"build --output-dir {folder} --size 6 --subsample-size 30 --test 20 --seed 5")[0] == 0
    return folder


def test_build_verify_stats_show(trm, puzzles):
    code, out, err = trm(f"verify {puzzles}")
    assert code == 0 and "train: 30 puzzles of 6x6" in out and "share no puzzle" in out
    assert err.startswith(f"next: trm data sudoku stats {puzzles}")
    code, out, err = trm(f"stats {puzzles}")
    assert code == 0 and "test: 20 puzzles" in out and "#" in out and "next: trm data sudoku show" in err
    code, out, err = trm(f"show {puzzles / 'train.csv'} --row 3 --count 2")
    assert code == 0 and "train 3:" in out and "train 4:" in out and "├─────────┼─────────┤" in out
    question = (puzzles / "train.csv").read_text().splitlines()[3].split(",")[1]
    assert question in out and "next: trm solve" in err


def test_boards_of_16x16(trm, tmp_path):
    """Built, checked, shown in letters, and the same puzzles from arrays with variants."""
    folder, arrays = tmp_path / "csv", tmp_path / "arrays"
    code, out, err = trm(f"build --output-dir {folder} --size 16 --extra-clues 30 --subsample-size 6 --test 4")
    assert code == 0 and "train: 6 puzzles of 16x16" in out and "data.size=16" in err
    assert trm(f"export {folder} --format arrays --num-aug 3 --output-dir {arrays}")[0] == 0
    for place in (folder, arrays):
        code, out, _ = trm(f"verify {place}")
        assert code == 0 and "share no puzzle" in out
    code, out, _ = trm(f"show {arrays} --row 2")
    assert code == 0 and (folder / "train.csv").read_text().splitlines()[2].split(",")[1] in out
    assert "┼────────────┼" in out and " G " in out
    assert trm(f"build --output-dir {tmp_path / 'c'} --size 16 --min-rating 1")[0] == 2


def test_build_says_how_to_train_on_it_and_is_repeatable(trm, puzzles, tmp_path):
    code, out, err = trm(f"build --output-dir {tmp_path / 'b'} --size 6 --subsample-size 30 --test 20 --seed 5")
    assert code == 0 and f"next: trm train demo --set data.source=csv data.path={tmp_path / 'b'}" in err
    assert (tmp_path / "b" / "train.csv").read_bytes() == (puzzles / "train.csv").read_bytes()


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_seeds_that_are_none(capsys, tmp_path, seed):
    for line in (f"build --output-dir {tmp_path / 'a'}", f"export x --output-dir {tmp_path / 'a'} --format arrays"):
        with pytest.raises(SystemExit) as stop:
            main(["data", "sudoku", *line.split(), "--seed", str(seed)])
        assert stop.value.code == 2
        assert f"{seed} is no seed; give a whole number from 0 to 4294967295" in capsys.readouterr().err


def test_nothing_is_overwritten_without_force(trm, puzzles):
    before = (puzzles / "train.csv").read_bytes()
    again = f"build --output-dir {puzzles} --size 6 --subsample-size 10 --test 10"
    code, _, err = trm(again)
    assert code == 2 and "--force" in err and (puzzles / "train.csv").read_bytes() == before
    assert trm(again + " --force")[0] == 0
    assert len((puzzles / "train.csv").read_text().splitlines()) == 11


def test_export_there_and_back(trm, puzzles, tmp_path):
    arrays, back = tmp_path / "arrays", tmp_path / "back"
    assert trm(f"export {puzzles} --format arrays --num-aug 4 --output-dir {arrays}")[0] == 0
    assert json.loads((arrays / "train" / "dataset.json").read_text())["total_puzzles"] == 150
    assert json.loads((arrays / "test" / "dataset.json").read_text())["total_puzzles"] == 20
    code, out, _ = trm(f"verify {arrays}")
    assert code == 0 and "share no puzzle" in out
    assert trm(f"export {arrays} --format csv --output-dir {back}")[0] == 0
    for name in ("train.csv", "test.csv"):
        rows, again = (
            [line.split(",")[1:] for line in (folder / name).read_text().splitlines()] for folder in (puzzles, back)
        )
        assert rows == again


def test_build_from_a_csv_source_into_arrays(trm, puzzles, tmp_path):
    out = tmp_path / "sub"
    line = (
        f"build --output-dir {out} --source csv --path {puzzles} --size 6 --subsample-size 10 --test 5 --format arrays"
    )
    assert trm(line)[0] == 0
    assert json.loads((out / "train" / "dataset.json").read_text())["total_groups"] == 10


def test_stored_variants_are_asked_for_by_their_number_alone(trm, tmp_path):
    """As the users' guide writes it: --output-dir --subsample-size --num-aug."""
    out = tmp_path / "data"
    code, _, err = trm(f"build --output-dir {out} --size 4 --extra-clues 2 --subsample-size 6 --test 3 --num-aug 3")
    assert code == 0 and " data.augmentations=3" in err.splitlines()[-1]
    assert json.loads((out / "train" / "dataset.json").read_text())["total_puzzles"] == 6 * 4


def test_verify_finds_a_test_puzzle_among_the_training_puzzles(trm, puzzles):
    lines = (puzzles / "test.csv").read_text().splitlines()
    lines[4] = (puzzles / "train.csv").read_text().splitlines()[7]
    (puzzles / "test.csv").write_text("\n".join(lines) + "\n")
    code, _, err = trm(f"verify {puzzles}")
    assert code == 2 and "train.csv line 8" in err and "test.csv line 5" in err and err.count("\n") == 1


@pytest.mark.parametrize(
    "line, message",
    [
        ("verify {tmp}/none", "trm data sudoku build --output-dir"),
        ("verify {tmp}/none.csv", "trm data sudoku build --output-dir"),
        ("show {puzzles} --row 99", "puzzles 1..30"),
        ("export {puzzles}/train.csv --format csv --output-dir {tmp}/x", "holds no train and test split"),
        ("build --output-dir {tmp}/x --size 5", "data.size is 5; choose one of 4, 6, 9"),
        ("build --output-dir {tmp}/x --num-aug 5 --format csv", "for arrays only"),
        ("build --output-dir {tmp}/x --num-aug -5 --format arrays", "--num-aug is -5"),
        ("build --output-dir {tmp}/x --num-aug -5", "--num-aug is -5"),
        ("build --output-dir {tmp}/x --size 4 --subsample-size 100", "found only 36"),
        ("build --output-dir {tmp}/x --source csv --path {puzzles} --size 6 --subsample-size 31", "holds 30 puzzles"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(trm, puzzles, tmp_path, line, message):
    code, out, err = trm(line.format(tmp=tmp_path, puzzles=puzzles))
    assert code == 2 and err.startswith("error: ") and message in err and err.count("\n") == 1
    assert not (tmp_path / "x").exists()


def test_a_cheap_import():
    """`trm --help` must not wait for JAX or numba."""
    import subprocess
    import sys
    from pathlib import Path

    code = "import sys, trm_jax.cli.data; sys.exit(any(m in sys.modules for m in ('jax', 'numba', 'numpy')))"
    root = Path(__file__).resolve().parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root).returncode == 0
