"""Boards as people write them: any drawing of a board reads as that board."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trm_jax.errors import InputError
from trm_jax.tasks.sudoku.boards import BOX_HEIGHT, SYMBOLS
from trm_jax.tasks.sudoku.text import board_text, format_line, read_boards

# Bar, the line above or between bands made of one part for each box, and what joins the parts.
GRIDS = {
    "none": ("", None),
    "plain": ("|", ("+", "-", "+", "+")),
    "bare": ("|", ("", "-", "+", "")),
    "single": ("│", ("├", "─", "┼", "┤")),
    "double": ("║", ("╠", "═", "╬", "╣")),
}
STYLES = st.fixed_dictionaries(
    {
        "blank": st.sampled_from("._*xX0"),
        "between": st.sampled_from(["", " "]),
        "grid": st.sampled_from(sorted(GRIDS)),
        "framed": st.booleans(),
        "gaps": st.booleans(),
        "indent": st.sampled_from(["", " " * 4]),
        "ends": st.sampled_from(["\n", "\r\n"]),
    }
)


def drawn(board, blank, between, grid, framed, gaps, indent, ends):
    """A board over several lines; `gaps`: an empty line between bands (where no line is drawn)."""
    size = int(len(board) ** 0.5)
    height, width = BOX_HEIGHT[size], size // BOX_HEIGHT[size]
    bar, rule = GRIDS[grid]
    pad = " " if between and bar else ""
    lines, part = [], (width * 2 + 1 if pad else width)
    across = rule and rule[0] * framed + rule[2].join([rule[1] * part] * height) + rule[3] * framed
    for row, cells in enumerate(board.reshape(size, size)):
        if row % height == 0 and (row or framed):
            lines += [across] if across else [""] if gaps and row else []
        letters = [SYMBOLS[digit] if digit else blank for digit in cells]
        boxes = [pad + between.join(letters[at : at + width]) + pad for at in range(0, size, width)]
        joined = (bar or between).join(boxes)
        lines.append(bar + joined + bar if framed else joined)
    return "".join(indent + line + ends for line in [*lines, *([across] if across and framed else [])])


@settings(max_examples=150)
@given(size=st.sampled_from([4, 6, 9, 16]), numbers=st.lists(st.integers(0, 59), min_size=1, max_size=3), style=STYLES)
def test_any_drawing_of_boards_reads_as_them(boards_of, size, numbers, style):
    wanted = boards_of(size).questions[numbers]
    text = "\n".join(drawn(board, **style) for board in wanted)
    np.testing.assert_array_equal([board for _, board in read_boards(text, size)], wanted)


@settings(max_examples=40)
@given(
    size=st.sampled_from([4, 6, 9, 16]),
    numbers=st.lists(st.integers(0, 59), min_size=1),
    blank=st.sampled_from("._*x0"),
)
def test_boards_on_a_line_each(boards_of, size, numbers, blank):
    lines = [format_line(board).replace(".", blank) for board in boards_of(size).questions[numbers]]
    found = read_boards("\n\n".join(lines).swapcase(), size)
    assert [format_line(board) for _, board in found] == [line.replace(blank, ".") for line in lines]
    assert [line for line, _ in found] == list(range(1, 2 * len(lines), 2))


@pytest.mark.parametrize("size", [4, 6, 9, 16])
def test_what_we_print_is_read_again(boards_of, size):
    boards = boards_of(size).questions[:3]
    text = "\n\n".join(board_text(board, board, color=False) for board in boards)
    np.testing.assert_array_equal([board for _, board in read_boards(text, size)], boards)


def test_sixteen_cells_are_a_row_or_a_board():
    """By the size that is asked for: nothing in the text tells."""
    text = "\n".join(["1234341221434321"] * 16)
    assert [len(board) for _, board in read_boards(text)] == [16] * 16
    assert [len(board) for _, board in read_boards(text, 4)] == [16] * 16
    ((line, board),) = read_boards(text, 16)
    assert line == 1 and len(board) == 256
    with pytest.raises(InputError, match="line 1: a board of 16x16 begins here and has 1 rows"):
        read_boards("1234341221434321", 16)


def test_rows_of_csv_files(boards_of):
    board, answer = boards_of(9).questions[0], boards_of(9).answers[0]
    question, solution = format_line(board), format_line(answer)
    zeros = "0" * 3 + question.replace(".", "0")[3:]  # for the zeros that a spreadsheet drops
    cells = "\n".join(",".join(str(digit or "") for digit in row) for row in board.reshape(9, 9))
    for text in (
        f"source,question,answer,rating\na,{question},{solution},3\n",
        f"quizzes;solutions\n{question.replace('.', '0')};{solution}\n",
        f'id\tpuzzle\n1\t"{question}"\n',
        f"a,{question},{solution},3\n",
        cells,
    ):
        assert [format_line(found) for _, found in read_boards(text)] == [question], text
    ((_, found),) = read_boards(f"quizzes,solutions\n{zeros.lstrip('0')},{solution}\n")
    assert format_line(found) == zeros.replace("0", ".")


@pytest.mark.parametrize(
    "text, words",
    [
        ("123", "line 1: a board has 16, 36, 81 or 256 cells, this one has 3"),
        ("0" * 80, "this one has 80 (a spreadsheet drops zeros"),
        ("." * 16 + "\n\n" + "." * 15, "line 3: a board has 16, 36, 81 or 256 cells, this one has 15"),
        ("5" + "." * 15, "line 1: 5 stands on a board of 4x4"),
        ("a" + "." * 80, "line 1: A stands on a board of 9x9, where digits are 1..9"),
        ("." * 16 + "\n" + "." * 80 + "²", "line 2: '²' is no cell"),
        ("nonsense", "line 1: 'n' is no cell of a board: write 1..9 (16x16: and A..G), and . 0 _ * or x"),
        ("12 4\n....\n....", "line 1:"),
        ("source,answer\na,1234", "line 1: no column question"),
        ("question\n................\nabcdefghijklmnop\n", "line 3: 'h' is no cell"),
        ("source,question\na,................\nb\n", "line 3: 1 fields where the header has 2"),
        (
            "1  4 \n  3 2 1\n 2  1\n3   4",
            "line 1: a board has 16, 36, 81 or 256 cells, this one has 2: write blanks as dots",
        ),
    ],
)
def test_what_is_no_board_is_named_by_its_line(text, words):
    with pytest.raises(InputError) as caught:
        read_boards(text)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_nothing_is_no_board():
    assert read_boards("") == read_boards("\n  \n") == read_boards("+---+\n") == []


def test_blanks_that_are_spaces():
    """As people type a board: its rows as wide as it is high, what follows the last digit left out."""
    rows = [
        "53  7    ",
        "6  195",
        " 98    6",
        "8   6   3",
        "4  8 3  1",
        "7   2   6",
        " 6    28",
        "   419  5",
        "    8  79",
    ]
    dots = "".join(row.ljust(9).replace(" ", ".") for row in rows)
    ((line, board),) = read_boards("\n".join(rows) + "\n")
    assert line == 1 and "".join(map(str, board)).replace("0", ".") == dots
