import numpy as np
import pytest

from trm_jax.errors import InputError
from trm_jax.tasks.sudoku import csv_files
from trm_jax.tasks.sudoku.boards import format_line
from trm_jax.tasks.sudoku.csv_files import read_csv, write_csv

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


@pytest.mark.parametrize("size", [4, 6, 9])
def test_round_trip(tmp_path, boards_of, size):
    boards = boards_of(size)
    write_csv(tmp_path / "a.csv", boards)
    back = read_csv(tmp_path / "a.csv")
    assert back.size == size and back.sources == boards.sources
    for name in ("questions", "answers", "ratings"):
        np.testing.assert_array_equal(getattr(back, name), getattr(boards, name))
    assert back.rows.tolist() == list(range(2, 62))
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


def test_zeros_other_column_orders_and_byte_order_marks_are_read(tmp_path, rows):
    lines = [f"{answer},9,{question.replace('.', '0')},{rating},{source}" for source, question, answer, rating in rows]
    path = tmp_path / "x.csv"
    path.write_text("\n".join(["answer,extra,question,rating,source", *lines, ""]), encoding="utf-8-sig")
    np.testing.assert_array_equal(read_csv(path).questions, read_csv(save(tmp_path, rows)).questions)


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
        (set_field(1, "x" + "." * 80), "character 1 of question is 'x'"),
        (set_field(1, "é" + "." * 80), "character 1 of question is 'é'"),
        (set_field(3, "hard"), "rating is 'hard'"),
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
        ("", "line 1: no column source, question, answer, rating"),
        ("source,question,rating\n", "line 1: no column answer"),
        (HEADER + "\n", "holds no puzzle"),
        (HEADER + "\ns,123,123,1\n", "line 2, question: a board has 16, 36 or 81 characters"),
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
    monkeypatch.setattr(csv_files, "_PROVED_WHOLE", 4)
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
    with pytest.raises(IndexError):
        write_csv(path, broken)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
