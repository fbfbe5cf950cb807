"""Boards as text and pictures: what stands where, and what is refused."""

import re
import resource

import numpy as np
import pytest
from PIL import Image

from trm_jax.errors import InputError
from trm_jax.tasks.pictures import GOOD, INK, MODEL, PAPER, TRACK
from trm_jax.tasks.sudoku.pictures import (
    CHANGED,
    CHANGED_FILL,
    CLUE_FILL,
    CONFLICT_FILL,
    HAIRLINE,
    board_png,
    thinking_gif,
)
from trm_jax.tasks.sudoku.text import board_text

ANSWER = {
    4: np.array([int(digit) for digit in "1234341221434321"]),
    6: np.array([int(digit) for digit in "123456456123231564564231312645645312"]),
    9: np.array([int(d) for d in "769341852142895367538267194273689541954123678681574923316452789495738216827916435"]),
    16: np.array([(4 * (row % 4) + row // 4 + col) % 16 + 1 for row in range(16) for col in range(16)]),
}
PNG_CELL, PNG_MARGIN = 64, 28


def question_of(size: int) -> np.ndarray:
    return np.where(np.arange(size * size) % 3 == 0, ANSWER[size], 0)


def rgb(path, frame: int = 0) -> np.ndarray:
    with Image.open(path) as image:
        image.seek(frame)
        return np.asarray(image.convert("RGB"))


def cell_of(pixels: np.ndarray, row: int, column: int, cell: int, left: int, top: int) -> np.ndarray:
    """The inside of one cell, three pixels from its lines."""
    y, x = top + row * cell, left + column * cell
    return pixels[y + 4 : y + cell - 2, x + 4 : x + cell - 2]


def png_cell(pixels: np.ndarray, row: int, column: int) -> np.ndarray:
    return cell_of(pixels, row, column, PNG_CELL, PNG_MARGIN, PNG_MARGIN)


def count(pixels: np.ndarray, color) -> int:
    return int((pixels == np.array(color)).all(axis=-1).sum())


# Text


def test_text_of_a_solved_six():
    assert board_text(question_of(6), ANSWER[6], color=False).splitlines() == [
        "┌─────────┬─────────┐",
        "│ 1  2  3 │ 4  5  6 │",
        "│ 4  5  6 │ 1  2  3 │",
        "├─────────┼─────────┤",
        "│ 2  3  1 │ 5  6  4 │",
        "│ 5  6  4 │ 2  3  1 │",
        "├─────────┼─────────┤",
        "│ 3  1  2 │ 6  4  5 │",
        "│ 6  4  5 │ 3  1  2 │",
        "└─────────┴─────────┘",
    ]


def test_text_marks_conflicts_and_changed_clues():
    question, answer = np.zeros(16, int), ANSWER[4].copy()
    question[5] = 4
    answer[0] = 2  # repeats in row 1, column 1
    question[15] = 2  # the answer has 1
    lines = board_text(question, answer, color=False).splitlines()
    assert lines[1] == "│ 2! 2!│ 3  4 │"
    assert lines[2] == "│ 3  4 │ 1  2 │"
    assert lines[4] == "│ 2! 1 │ 4  3 │"
    assert lines[5] == "│ 4  3 │ 2  1!│"


def test_text_shows_blanks_as_dots():
    text = board_text(question_of(4), question_of(4), color=False)
    assert text.splitlines()[1] == "│ 1  . │ .  4 │" and "!" not in text


@pytest.mark.parametrize("size", [4, 6, 9, 16])
def test_color_changes_no_column(size):
    answer = ANSWER[size].copy()
    answer[1] = answer[0]
    plain = board_text(question_of(size), answer, color=False)
    colored = board_text(question_of(size), answer, color=True)
    assert "\x1b" not in plain
    assert re.sub(r"\x1b\[\d*m", "", colored) == plain.replace("!", " ")


def test_color_is_bold_for_clues_and_red_for_wrong_cells():
    question, answer = np.zeros(16, int), ANSWER[4].copy()
    question[0], answer[1] = 1, 1
    first = board_text(question, answer, color=True).splitlines()[1]
    assert first == "│ \x1b[1m\x1b[31m1\x1b[0m  \x1b[31m1\x1b[0m │ 3  4 │"
    # Column 2 holds the other 1, everything else is plain.
    assert board_text(question, answer, color=True).count("\x1b[0m") == 3


# PNG


@pytest.mark.parametrize("size", [4, 6, 9, 16])
def test_png_paints_clues_and_the_models_digits(tmp_path, size):
    path = tmp_path / "board.png"
    question = question_of(size)
    board_png(path, question, ANSWER[size])
    pixels = rgb(path)
    for index in range(size * size):
        inside = png_cell(pixels, *divmod(index, size))
        fill, ink = (CLUE_FILL, INK) if question[index] else (PAPER, MODEL)
        assert tuple(inside[0, 0]) == fill
        assert count(inside, ink) > 20, "the digit is drawn in its colour"
        assert count(inside, CONFLICT_FILL) == 0


def test_png_draws_thick_lines_between_boxes_and_thin_ones_inside(tmp_path):
    path = tmp_path / "board.png"
    board_png(path, question_of(6), ANSWER[6])
    pixels = rgb(path)
    assert pixels.shape[:2] == (6 * 64 + 3 + 56, 6 * 64 + 3 + 56)
    across, down = pixels[PNG_MARGIN + 32], pixels[:, PNG_MARGIN + 10]
    for line in range(7):
        at = PNG_MARGIN + line * PNG_CELL
        assert (across[at : at + 3] == INK).all() == (line % 3 == 0)
        assert (tuple(across[at + 1]) == HAIRLINE) == (line % 3 != 0)
        assert (down[at : at + 3] == INK).all() == (line % 2 == 0)
        assert (tuple(down[at + 1]) == HAIRLINE) == (line % 2 != 0)


def test_png_paints_conflicts_red_and_keeps_the_changed_clue_in_the_corner(tmp_path):
    path = tmp_path / "board.png"
    question, answer = np.zeros(16, int), ANSWER[4].copy()
    question[0], question[1], answer[0] = 1, 2, 2
    board_png(path, question, answer)
    pixels = rgb(path)
    red = {
        (row, column) for row in range(4) for column in range(4) if count(png_cell(pixels, row, column), CONFLICT_FILL)
    }
    assert red == {(0, 0), (0, 1), (2, 0)}
    corner = png_cell(pixels, 0, 0)[:18, :12]
    assert (corner != CONFLICT_FILL).any(), "the clue that was changed stands in the corner"
    assert (png_cell(pixels, 2, 0)[:18, :12] == CONFLICT_FILL).all()
    assert count(png_cell(pixels, 0, 1), INK) > 20, "a clue in conflict stays a clue"


def test_png_caption_wraps_below_the_board(tmp_path):
    heights, words = [], "a caption that is long enough to need more than one line of its own "
    for caption in ("", "short", words, words * 3):
        board_png(tmp_path / "board.png", question_of(4), ANSWER[4], caption=caption)
        pixels = rgb(tmp_path / "board.png")
        assert pixels.shape[1] == 4 * 64 + 3 + 56
        heights.append(pixels.shape[0])
        edges = np.concatenate([pixels[:, :20], pixels[:, -20:]], axis=1)
        assert (edges == PAPER).all(), "no word runs into the margin"
        below = pixels[PNG_MARGIN + 4 * 64 + 3 :]
        assert (below != PAPER).any() == bool(caption)
    assert sorted(set(heights)) == heights and len(heights) == 4


# GIF


def thinking(size: int = 9, steps: int = 4):
    """Frames that change one more wrong cell into the right one at each step; the last two are equal."""
    question = question_of(size)
    frames = np.repeat(ANSWER[size][None], steps, axis=0)
    for step in range(steps - 2):
        free = np.flatnonzero(question == 0)[: steps - 2 - step]
        frames[step, free] = frames[step, free] % size + 1
    return question, frames


@pytest.mark.parametrize("size", [4, 6, 9, 16])
def test_gif_has_the_question_and_every_step_and_holds_the_last(tmp_path, size):
    path = tmp_path / "thinking.gif"
    question, frames = thinking(size, steps=5)
    thinking_gif(path, question, frames, np.zeros(5))
    with Image.open(path) as image:
        durations = []
        for frame in range(image.n_frames):
            image.seek(frame)
            durations.append(image.info["duration"])
        assert image.info["loop"] == 0
    # The last two boards are equal: frames are told apart by their counter and none is merged away.
    assert durations == [500] * 5 + [2000]


@pytest.fixture(scope="module")
def gif(tmp_path_factory):
    """The pixels of every frame of one GIF, and its boards."""
    path = tmp_path_factory.mktemp("gif") / "thinking.gif"
    question, frames = thinking(steps=5)
    thinking_gif(path, question, frames, q=np.array([0.0, 0.25, 0.5, 1.0, 0.75]), halted_at=4)
    return [rgb(path, step) for step in range(6)], frames


def test_gif_frames_the_digits_that_changed(gif):
    pixels, frames = gif
    for step in range(6):
        cells = [cell_of(pixels[step], *divmod(index, 9), 48, 24, 60) for index in range(81)]
        framed = {index for index in range(81) if count(cells[index], CHANGED) > 30}
        wanted = set(np.flatnonzero(frames[step - 1] != frames[step - 2])) if step > 1 else set()
        assert framed == wanted
    assert wanted == set() and (frames[1] != frames[2]).any()


def test_gif_colors_are_exact_and_the_solved_end_has_no_red(gif):
    packed = [np.unique(pixels @ np.array([2**16, 2**8, 1])) for pixels in gif[0]]
    colors = [{(int(c) >> 16, int(c) >> 8 & 255, int(c) & 255) for c in frame} for frame in packed]
    for step, present in enumerate(colors):
        assert {PAPER, INK, CLUE_FILL} <= present
        assert (CONFLICT_FILL in present) == (step in (1, 2, 3))
    assert CHANGED_FILL in colors[4], "a cell made right is framed on yellow"
    assert len(set().union(*colors)) <= 256, "one palette for all frames"


def test_gif_bar_is_as_long_as_the_halting_probability(gif):
    lengths = []
    for pixels in gif[0]:
        bar = pixels[60 + 435 + 16 + 30 - 4, 24 + 48 : 24 + 435 - 52]
        tick, track = count(bar, INK), count(bar, TRACK)
        assert tick == 2
        lengths.append(1 - track / (len(bar) - tick))
    # One pixel of 334, and the tick's two.
    np.testing.assert_allclose(lengths, [0, 0.0, 0.25, 0.5, 1.0, 0.75], atol=3 / 334)


def test_gif_steps_turn_green_where_the_model_halts(gif):
    rows = [pixels[60 + 435 + 16 + 4] for pixels in gif[0]]
    shares = [[round(5 * count(row, color) / 435) for color in (INK, GOOD, TRACK)] for row in rows]
    assert shares == [[0, 0, 5], [1, 0, 4], [2, 0, 3], [3, 0, 2], [3, 1, 1], [3, 2, 0]]


# Files


def write_board(path):
    board_png(path, question_of(9), ANSWER[9], caption="the same")


def write_gif(path):
    thinking_gif(path, *thinking(), q=np.array([0.1, 0.2, 0.6, 0.9]), halted_at=3)


@pytest.mark.parametrize(("write", "suffix"), [(write_board, ".png"), (write_gif, ".gif")])
def test_same_input_same_bytes_and_nothing_else_left(tmp_path, write, suffix):
    first, second = tmp_path / f"new/folder/a{suffix}", tmp_path / f"b{suffix}"
    write(first)
    write(second)
    assert first.read_bytes() == second.read_bytes()
    assert [path.name for path in first.parent.iterdir()] == [first.name]
    with pytest.raises(InputError, match=f"let the name end in {suffix}"):
        write(tmp_path / "board.jpeg")


def test_a_failed_write_leaves_the_old_picture_and_no_temporary(tmp_path):
    path = tmp_path / "board.png"
    write_board(path)
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # A file may not grow past 1,000 bytes: the write fails half-way, as on a full disk.
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(InputError, match="cannot write .*board.png: File too large"):
            board_png(path, question_of(4), ANSWER[4])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(InputError, match=r"cannot write .*file/board.png"):
        write_board(tmp_path / "file" / "board.png")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(InputError, match="cannot write .*folder.png"):
        write_board(tmp_path / "folder.png")
    assert not list(tmp_path.glob(".*tmp"))
