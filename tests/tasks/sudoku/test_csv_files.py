import gzip
import shutil

import numpy as np
import pytest

from trm_jax.errors import InputError
from trm_jax.tasks.sudoku import csv_files
from trm_jax.tasks.sudoku.csv_files import read_csv, write_csv
from trm_jax.tasks.sudoku.text import format_line

HEADER = "source,question,answer,rating"


@pytest.fixture
def rows(boards_of):
    """Five good 9x9 rows as lists of fields; in the file, row i stands on line i + 2."""
    boards = boards_of(9)
    return [["s", format_line(boards.questions[i]), format_line(boards.answers[i]), "3"] for i in range(5)]


def save(tmp_path, rows, header=HEADER):
    path = tmp_path / "train.csv"
    path.write_text("\n".join([header, *(",".join(row) for row in rows)]) + "\n")
    return path


@pytest.mark.parametrize("size", [4, 6, 9, 16])
def test_round_trip(tmp_path, boards_of, size):
    boards = boards_of(size)
    write_csv(tmp_path / "a.csv", boards)
    back = read_csv(tmp_path / "a.csv")
    assert back.size == size
    for name in ("questions", "answers", "ratings", "sources"):
        np.testing.assert_array_equal(getattr(back, name), getattr(boards, name))
    assert back.rows.tolist() == list(range(2, 62))
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


def test_letters_of_16x16_written_by_hand(tmp_path):
    """Of either case, with any blank: what `1..9A..G` is in other tools' files."""
    answer = (
        "123456789ABCDEFG" "56789ABCDEFG1234" "9ABCDEFG12345678" "DEFG123456789ABC"
        "23456789ABCDEFG1" "6789ABCDEFG12345" "ABCDEFG123456789" "EFG123456789ABCD"
        "3456789ABCDEFG12" "789ABCDEFG123456" "BCDEFG123456789A" "FG123456789ABCDE"
        "456789ABCDEFG123" "89ABCDEFG1234567" "CDEFG123456789AB" "G123456789ABCDEF"
    )  # fmt: skip
    question = (
        "................" "56789abcdefg1234" "9abcdefg12345678" "DEFG123456789ABC"
        "0345678_ABCDEFG1" "6789ABCDEFG12345" "ABCDEFG123456789" "EFG123456789ABCD"
        "3456789ABCDEFG12" "789ABCDEFG12345*" "BCDEFG123456789A" "FG123456789ABCDE"
        "456789ABCDEFG123" "89ABCDEFG1234567" "CDEFG123456789AB" "x123456789ABCDEf"
    )  # fmt: skip
    (tmp_path / "a.csv").write_text(f"puzzle,solution\n{question},{answer.lower()}\n")
    boards = read_csv(tmp_path / "a.csv")
    assert boards.size == 16 and boards.clues.tolist() == [256 - 16 - 4]
    assert boards.answers[0, :16].tolist() == list(range(1, 17)) and boards.answers[0, -1] == 15
    assert boards.questions[0, -16] == 0 and boards.questions[0, 64:73].tolist() == [0, 3, 4, 5, 6, 7, 8, 0, 10]
    (tmp_path / "b.csv").write_text(f"puzzle,solution\n{question},{answer.replace('G', 'H', 1)}\n")
    with pytest.raises(InputError, match="line 2: character 16 of answer is 'H': write 1..9 and A..G"):
        read_csv(tmp_path / "b.csv")


def others(rows, kind, header=HEADER):
    """The same rows as others write them, as bytes."""
    zeros = [[s, question.replace(".", "0"), answer, rating] for s, question, answer, rating in rows]
    lines = {
        "other order": ["answer,extra,question,rating,source", *(f"{a},9,{q},{r},{s}" for s, q, a, r in zeros)],
        "kaggle 1M": ["quizzes,solutions", *(f"{q},{a}" for _, q, a, _ in zeros)],
        "kaggle 9M": ["Puzzle,Solution", *(f"{q},{a}" for _, q, a, _ in zeros)],
        "kaggle 3M": ["id,puzzle,solution,clues,difficulty", *(f"1,{q},{a},23,2.2" for _, q, a, _ in rows)],
        "no zeros in front": ["question,answer", *(f"{q.lstrip('0')},{a}" for _, q, a, _ in zeros)],
        "no ratings": [header, *(f"{s},{q},{a}," for s, q, a, _ in rows)],
        "rating 3.0": [header, *(f"{s},{q},{a},{r}.0" for s, q, a, r in rows)],
        "semicolons": [header.replace(",", ";"), *(";".join(row) for row in rows)],
        "tabs": [header.replace(",", "\t"), *("\t".join(row) for row in rows)],
        "quotes": [header, *(",".join(f'"{field}"' for field in row) for row in rows)],
    }
    text = "\n".join(lines.get(kind, [header, *(",".join(row) for row in rows)])) + "\n"
    packing = {
        "utf-16": lambda: text.encode("utf-16"),
        "utf-8 with a mark": lambda: text.encode("utf-8-sig"),
        "gzip": lambda: gzip.compress(text.encode()),
        "crlf": lambda: text.replace("\n", "\r\n").encode(),
        "empty lines": lambda: ("\n" + text.replace("\n", "\n\n")).encode(),
    }
    return packing.get(kind, text.encode)()


@pytest.mark.parametrize(
    "kind",
    ["other order", "kaggle 1M", "kaggle 9M", "kaggle 3M", "no zeros in front", "no ratings", "rating 3.0",
     "semicolons", "tabs", "quotes", "utf-16", "utf-8 with a mark", "gzip", "crlf", "empty lines"],
)  # fmt: skip
def test_files_as_others_write_them(tmp_path, rows, boards_of, kind):
    number = int(np.flatnonzero((boards_of(9).questions[:, :2] == 0).all(axis=1))[0])  # it begins with two blanks
    rows.append(["s", format_line(boards_of(9).questions[number]), format_line(boards_of(9).answers[number]), "3"])
    path = tmp_path / ("x.csv.gz" if kind == "gzip" else "x.csv")
    path.write_bytes(others(rows, kind))
    boards, numbers = read_csv(path), [0, 1, 2, 3, 4, number]
    np.testing.assert_array_equal(boards.questions, boards_of(9).questions[numbers])
    np.testing.assert_array_equal(boards.answers, boards_of(9).answers[numbers])
    # Without a rating the guesses of our solver stand for it.
    without = kind.startswith("kaggle") or kind in ("no ratings", "no zeros in front")
    assert boards.ratings.tolist() == (boards_of(9).ratings[numbers].tolist() if without else [3] * 6)
    assert boards.rows[-1] == (14 if kind == "empty lines" else 7)


def test_a_long_file_is_verified_once(tmp_path, rows, monkeypatch):
    """Whatever its name; a change of its bytes, a damaged cache or none at all make it be read anew."""
    monkeypatch.setattr(csv_files, "_WORTH_KEEPING", 4)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    calls = []

    def progress(done, total):
        calls.append((done, total))

    path = save(tmp_path, rows)
    first = read_csv(path, progress=progress)
    size = path.stat().st_size
    assert calls == [(size, size), (5, 5)]  # bytes that are read, then rows that are solved
    calls.clear()
    shutil.copy(path, tmp_path / "copy.csv")
    again = read_csv(tmp_path / "copy.csv", progress=progress)
    assert calls == [] and again.where(1) == f"{tmp_path / 'copy.csv'} line 3"
    for name in ("questions", "answers", "ratings", "rows", "sources"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    (kept,) = (tmp_path / "cache" / "trm_jax" / "puzzles").iterdir()
    kept.write_bytes(kept.read_bytes()[:50])
    assert len(read_csv(path, progress=progress)) == 5 and len(calls) == 2
    rows[0][0] = "other"
    assert read_csv(save(tmp_path, rows), progress=progress).sources[0] == "other" and len(calls) == 4
    monkeypatch.setenv("XDG_CACHE_HOME", str(path / "no folder"))
    assert len(read_csv(path, progress=progress)) == 5 and len(calls) == 6


def test_of_a_very_long_file_the_marks_are_kept(tmp_path, rows, monkeypatch):
    monkeypatch.setattr(csv_files, "_WORTH_KEEPING", 4)
    monkeypatch.setattr(csv_files, "_VERIFIED_WHOLE", 4)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    drop_clue(rows)
    rows[0][3] = ""
    path, solved = save(tmp_path, rows), []
    for chosen, due in (([0, 4], 2), ([0, 1, 4], 1), ([4], 0)):
        solved.clear()
        boards = read_csv(path, select=lambda n: np.array(chosen), progress=lambda done, total: solved.append(total))  # noqa: B023
        assert boards.rows.tolist() == [i + 2 for i in chosen] and (boards.ratings >= 0).all()
        assert solved[-1:] == ([due] if due else [])
    with pytest.raises(InputError, match="line 4: .*two or more"):
        read_csv(path)


def wrong_digit(text):
    return str(int(text) % 9 + 1)


def repeat_clue(rows):
    question = rows[2][1]
    first = next(c for c in question[:9] if c != ".")
    blank = question[:9].index(".")
    rows[2][1] = question[:blank] + first + question[blank + 1 :]


def drop_clue(rows):
    clue = next(i for i, c in enumerate(rows[2][1]) if c != ".")
    rows[2][1] = rows[2][1][:clue] + "." + rows[2][1][clue + 1 :]


def unsolvable(rows):
    # The eight others of row 1 stand in it or in the column of its last cell: no digit is left there.
    rows[2][1] = "12345678." + "." * 17 + "9" + "." * 54


def bad_answer(rows):
    rows[2][2] = wrong_digit(rows[2][2][0]) + rows[2][2][1:]


def other_answer(rows):
    rows[2][2] = rows[3][2]


def set_field(column, value):
    def change(rows):
        rows[2][column] = value

    return change


@pytest.mark.parametrize(
    "spoil, message",
    [
        (repeat_clue, "clues contradict each other"),
        (drop_clue, "two or more solutions"),
        (unsolvable, "no solution"),
        (bad_answer, "answer is not a valid filled board"),
        (other_answer, "answer disagrees with the clues"),
        (set_field(1, "1" * 80), "question has 80 characters, expected 81"),
        (set_field(2, "1" * 82), "answer has 82 characters, expected 81"),
        (set_field(1, "y" + "." * 80), "character 1 of question is 'y'"),
        (set_field(1, "é" + "." * 80), "character 1 of question is 'é'"),
        (set_field(1, "1.23E+80"), "a spreadsheet loses digits"),
        (set_field(3, "hard"), "rating is 'hard'"),
        (set_field(3, "2.5"), "rating is '2.5'"),
        (set_field(3, "-1"), "rating is '-1'"),
        (lambda rows: rows[2].append("more"), "5 fields where the header has 4"),
    ],
)
def test_a_bad_row_is_named_by_its_line(tmp_path, rows, spoil, message):
    spoil(rows)
    path = save(tmp_path, rows)
    with pytest.raises(InputError, match=f"train.csv line 4: .*{message}") as caught:
        read_csv(path)
    assert "\n" not in str(caught.value)


def test_the_line_is_the_editors_even_after_empty_lines_and_quoted_newlines(tmp_path, rows):
    rows[0][0] = '"two\nlines"'
    bad_answer(rows)
    rows.insert(1, [""])
    with pytest.raises(InputError, match="line 6: "):
        read_csv(save(tmp_path, rows))


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "line 1: no column question"),
        ("source,question,rating\n", "line 1: no column answer"),
        (HEADER + "\n", "holds no puzzle"),
        (HEADER + "\ns,123,123,1\n", "line 2: question has 3 characters, a board has 16, 36, 81 or 256"),
        (b"\xff\xfe\x00", "not a CSV text file"),
    ],
)
def test_files_that_are_no_puzzle_files(tmp_path, text, message):
    path = tmp_path / "x.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=message):
        read_csv(path)


def test_a_missing_file_says_how_to_make_it(tmp_path):
    with pytest.raises(InputError, match="trm data sudoku build --output-dir .*data.source=hub"):
        read_csv(tmp_path / "train.csv")
    with pytest.raises(InputError, match="is a folder"):
        read_csv(tmp_path)


def test_blocks_and_long_files_are_checked_alike(tmp_path, rows, monkeypatch):
    """A file too long to be solved whole: rules are checked in every row, solutions counted in the rows chosen."""
    monkeypatch.setattr(csv_files, "_BLOCK", 2)
    monkeypatch.setattr(csv_files, "_VERIFIED_WHOLE", 4)
    drop_clue(rows)
    path = save(tmp_path, rows)
    chosen = read_csv(path, select=lambda n: np.array([0, n - 1]))
    assert chosen.rows.tolist() == [2, 6]
    with pytest.raises(InputError, match="line 4: .*two or more"):
        read_csv(path, select=lambda n: np.array([1, 2]))
    bad_answer(rows)
    with pytest.raises(InputError, match="line 4: .*not a valid"):
        read_csv(save(tmp_path, rows), select=lambda n: np.array([0]))
    rows[4][1] = "." * 36
    rows[4][2] = "." * 36
    with pytest.raises(InputError, match="line 6: question has 36"):
        read_csv(save(tmp_path, rows))


def test_a_failed_write_leaves_the_old_file(tmp_path, boards_of):
    path = tmp_path / "a.csv"
    path.write_text("old")
    broken = boards_of(4).take(np.arange(3))
    object.__setattr__(broken, "sources", ("one",))  # the second row raises in the middle of writing
    with pytest.raises(ValueError):
        write_csv(path, broken)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
