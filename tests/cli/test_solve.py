"""`trm solve`: puzzles from everywhere, answers that are checked, pictures."""

import os
import re
import threading

import pytest
from PIL import Image

IMPOSSIBLE = "11.............."  # a clue that contradicts another: no answer is right


def assert_solved(result, puzzle: str) -> None:
    assert result.code == 0, result.err
    assert re.search(r"^solved   \(the model is \d+% sure\)$", result.out, re.MULTILINE)
    # The board that is printed keeps the clues.
    digits = re.sub(r"[^1-4]", "", result.out[: result.out.index("solved")])
    assert len(digits) == 16
    assert all(clue in (".", digit) for clue, digit in zip(puzzle, digits, strict=True))
    for unit in range(4):
        assert set(digits[4 * unit : 4 * unit + 4]) == set(digits[unit::4]) == set("1234")


def test_a_puzzle_on_the_command_line(trm, solver):
    assert_solved(trm.run("solve", solver.workdir, solver.puzzles[0]), solver.puzzles[0])


def test_an_answer_that_is_wrong(trm, solver):
    result = trm.run("solve", solver.workdir, IMPOSSIBLE)
    assert result.code == 1
    assert result.err == f"next: trm solve {solver.workdir} {IMPOSSIBLE} --gif thinking.gif\n"
    assert "row 1 holds" in result.out or "became" in result.out
    [verdict] = [line for line in result.out.splitlines() if line.startswith("not solved: ")]
    assert verdict.count(";") == 3 and re.search(r"; and \d+ more   \(the model", verdict)


@pytest.fixture
def files(solver, tmp_path):
    puzzles = solver.puzzles[:3]
    (tmp_path / "puzzles.txt").write_text("\n".join([puzzles[0], "", f"  {puzzles[1]}", puzzles[2]]) + "\n")
    rows = "".join(f"a,{puzzle},{'1' * 16},0\n" for puzzle in puzzles)
    (tmp_path / "puzzles.csv").write_text("source,question,answer,rating\n" + rows)
    grids = ("\n".join(f"| {a} {b} | {c} {d} |" for a, b, c, d in zip(*[iter(p)] * 4, strict=True)) for p in puzzles)
    (tmp_path / "grids.txt").write_bytes("\n\n".join(grids).replace(".", "_").encode("utf-16"))
    return tmp_path


@pytest.mark.parametrize("name", ["grids.txt", "pipe", "-"])
def test_files_and_standard_input(trm, solver, files, name):
    if name == "pipe":  # as `trm solve RUN <(head -3 puzzles.txt)` names one
        os.mkfifo(files / name)
        writer = threading.Thread(target=(files / name).write_text, args=[(files / "puzzles.csv").read_text()])
        writer.start()
        result = trm.run("solve", solver.workdir, files / name)
        writer.join()
    elif name == "-":
        result = trm.run("solve", solver.workdir, "-", stdin=(files / "puzzles.txt").read_text())
    else:
        result = trm.run("solve", solver.workdir, files / name)
    assert result.code == 0, result.err
    assert result.out.count("solved   (the model") == 3 and "3 of 3 solved" in result.out


def test_one_wrong_among_many_is_exit_code_1(trm, solver):
    """More than ten: a line each, in the order given."""
    lines = [*solver.puzzles[:11], IMPOSSIBLE]
    result = trm.run("solve", solver.workdir, "-", stdin="\n".join(lines))
    assert result.code == 1
    *verdicts, wrong, total = result.out.splitlines()
    assert total == "11 of 12 solved"
    for puzzle, verdict in zip(lines, verdicts, strict=False):
        answer, word = verdict.split()
        assert word == "solved"
        assert all(clue in (".", digit) for clue, digit in zip(puzzle, answer, strict=True))
    assert re.match(r"[1-4.]{16} wrong: ", wrong)


def test_more_puzzles_than_one_batch_holds(trm, solver):
    """The 65th puzzle is in a batch of its own, and its answer is the one it gets alone."""
    lines = [*(solver.puzzles * 3)[:70], IMPOSSIBLE]
    result = trm.run("solve", solver.workdir, "-", "--limit", 70, stdin="\n".join(lines))
    assert result.code == 0 and "70 of 70 solved" in result.out
    answers = [line.split()[0] for line in result.out.splitlines()[:-1]]
    assert all(answers[n] == answers[n % len(solver.puzzles)] for n in range(70))


def test_pictures(trm, solver, tmp_path):
    png, gif = tmp_path / "answer.png", tmp_path / "thinking.gif"
    result = trm.run("solve", solver.workdir, "--example", "--steps", 5, "--png", png, "--gif", gif)
    assert result.code in (0, 1), result.err
    assert f"picture: {png}" in result.out and f"thinking: {gif}" in result.out
    assert result.err == f"next: trm eval {solver.workdir}\n"
    with Image.open(png) as picture:
        assert picture.format == "PNG" and min(picture.size) > 100
    with Image.open(gif) as animation:
        assert animation.format == "GIF" and animation.n_frames >= 5


def test_the_example_is_the_first_held_out_puzzle(trm, solver):
    from tests import tiny

    question = tiny.data(tiny.SOLVER)[1].inputs[0] - 1
    literal = "".join(map(str, question))
    example, same = (trm.run("solve", solver.workdir, what) for what in ("--example", literal))
    assert example.out == same.out and example.code == same.code


@pytest.mark.parametrize(
    "puzzle, words",
    [
        ("." * 81, "line 1: a board of 9x9, where 4x4 is asked for"),
        ("x" * 300, "is no file, and as a puzzle: line 1: a board has 16, 36, 81 or 256 cells, this one has 300"),
        (b"................\n12345...........\n", "puzzles line 2: 5 stands on a board of 4x4"),
        (b"\n\n", "puzzles holds no puzzle"),
        (b"\xff" + b"." * 15 + b"\n", "puzzles is not text in UTF-8"),
    ],
)
def test_puzzles_that_are_wrong(refused, solver, tmp_path, puzzle, words):
    if isinstance(puzzle, bytes):
        (tmp_path / "puzzles").write_bytes(puzzle)
        puzzle = tmp_path / "puzzles"
    assert words in refused("solve", solver.workdir, puzzle)


def test_a_folder_is_no_file_of_puzzles(refused, solver, tmp_path):
    assert refused("solve", solver.workdir, tmp_path) == f"{tmp_path} is a folder; name a file of puzzles"


def test_standard_input_that_is_wrong(trm, solver):
    result = trm.run("solve", solver.workdir, "-", stdin=f"{solver.puzzles[0]}\n12\n")
    assert (result.code, result.out) == (2, "")
    (line,) = result.err.splitlines()
    assert line.startswith("error: standard input line 2: a board has 16, 36, 81 or 256 cells, this one has 2")


def test_pictures_of_another_kind(refused, solver):
    """They are refused before anything is solved."""
    for option, kind in (("--png", "PNG"), ("--gif", "GIF")):
        said = refused("solve", solver.workdir, solver.puzzles[0], option, "answer.jpeg")
        assert said == f"cannot write a {kind} to answer.jpeg: let the name end in .{kind.lower()}"
