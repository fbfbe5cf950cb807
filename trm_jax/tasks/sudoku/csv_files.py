"""CSV files of puzzles, `source,question,answer,rating`: proven as they are read, written atomically."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Iterator

import numpy as np

from trm_jax.errors import InputError
from trm_jax.storage.paths import AnyPath, as_path, local_copy, replacement
from trm_jax.tasks.sudoku.boards import BAD, DIGIT_OF_BYTE, SIZES, Boards, format_line, parse_board
from trm_jax.tasks.sudoku.prove import check_rules, prove

COLUMNS = ("source", "question", "answer", "rating")
_BLOCK = 65_536  # rows held as text at a time: the hub's training file has 3.8 million
_PROVED_WHOLE = 500_000  # rows; of a longer file only those in use are solved

Row = tuple[str, str, str, str]


def names_csv(path: AnyPath) -> bool:
    """Whether a path names one file, which may be missing, and not a folder of them."""
    return path.is_file() or path.suffix == ".csv" and not path.is_dir()


def read_csv(
    path: str | AnyPath,
    *,
    select: Callable[[int], np.ndarray] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Boards:
    """Read the CSV file `source,question,answer,rating` and prove it; its first row tells the boards' size.

    `select(number of rows)` names the rows to return, [M] indices (None: all). Every row is checked: its
    form, its clues, its answer, and, in files of up to 500,000 rows, that it has one solution; of longer
    files that is proven for the rows returned. Raises `InputError` naming file and line (as an editor counts
    them) for a missing file or column, a wrong length, a bad letter or rating, contradicting clues, no
    solution, several solutions, a wrong answer. `progress(done, total)` is called while the rows are solved.
    """
    path = as_path(path)
    blocks = [_boards(path, rows, lines) for rows, lines in _blocks(path)]
    size = blocks[0].size
    for block in blocks:
        if block.size != size:
            raise InputError(
                f"{block.where(0)}: question has {block.size**2} characters, the first row's has {size**2}"
            )
    boards = Boards(
        size,
        questions=np.concatenate([block.questions for block in blocks]),
        answers=np.concatenate([block.answers for block in blocks]),
        ratings=np.concatenate([block.ratings for block in blocks]),
        sources=tuple(source for block in blocks for source in block.sources),
        origin=str(path),
        rows=np.concatenate([block.rows for block in blocks]),
    )
    whole = len(boards) <= _PROVED_WHOLE
    if whole:
        prove(boards, progress=progress)
    else:
        check_rules(boards)
    if select is not None:
        boards = boards.take(select(len(boards)))
    if not whole:
        prove(boards, progress=progress)
    return boards


def _blocks(path: AnyPath) -> Iterator[tuple[list[Row], list[int]]]:
    """The four columns of up to _BLOCK rows at a time, and their line numbers."""
    rows: list[Row] = []
    lines: list[int] = []
    any_row = False
    try:
        with local_copy(path) as copy, copy.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            header = [name.strip() for name in next(reader, [])]
            missing = [name for name in COLUMNS if name not in header]
            if missing:
                raise InputError(
                    f"{path} line 1: no column {', '.join(missing)}: the first line must be {','.join(COLUMNS)}"
                )
            places = [header.index(name) for name in COLUMNS]
            for fields in reader:
                if not fields:
                    continue
                if len(fields) != len(header):
                    raise InputError(
                        f"{path} line {reader.line_num}: {len(fields)} fields where the header has {len(header)}"
                    )
                rows.append(tuple(fields[place].strip() for place in places))
                lines.append(reader.line_num)
                any_row = True
                if len(rows) == _BLOCK:
                    yield rows, lines
                    rows, lines = [], []
    except FileNotFoundError:
        raise InputError(
            f"{path} does not exist: `trm data sudoku build --output-dir {path.parent}` makes train.csv "
            "and test.csv, or take the public set with data.source=hub"
        ) from None
    except IsADirectoryError:
        raise InputError(f"{path} is a folder: name a CSV file in it") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is not a CSV text file in UTF-8: {error}") from None
    if rows:
        yield rows, lines
    if not any_row:
        raise InputError(f"{path} holds no puzzle: it needs at least one row below the header")


def _boards(path: AnyPath, rows: list[Row], lines: list[int]) -> Boards:
    """Boards of one block of rows; their size is that of the first question."""
    sources, questions, answers, ratings = zip(*rows, strict=True)
    size = {n * n: n for n in SIZES}.get(len(questions[0]))
    if size is None:
        parse_board(questions[0], f"{path} line {lines[0]}, question")
    return Boards(
        size,
        questions=_cells(questions, size, path, lines, "question"),
        answers=_cells(answers, size, path, lines, "answer"),
        ratings=_ratings(ratings, path, lines),
        sources=tuple(sys.intern(source) for source in sources),
        origin=str(path),
        rows=np.array(lines, np.int64),
    )


def _cells(texts: tuple[str, ...], size: int, path: AnyPath, lines: list[int], column: str) -> np.ndarray:
    """[N, size*size] uint8 digits of board texts."""
    for text, line in zip(texts, lines, strict=True):
        if len(text) != size * size:
            raise InputError(f"{path} line {line}: {column} has {len(text)} characters, expected {size * size}")
    letters = np.frombuffer("".join(texts).encode("ascii", "replace"), np.uint8)
    cells = DIGIT_OF_BYTE[letters].reshape(len(texts), size * size)
    bad = (cells == BAD) | (cells > size)
    if bad.any():
        row, place = np.argwhere(bad)[0]
        raise InputError(
            f"{path} line {lines[row]}: character {place + 1} of {column} is {texts[row][place]!r}: "
            f"write 1..{size}, '.' or '0'"
        )
    return cells


def _ratings(texts: tuple[str, ...], path: AnyPath, lines: list[int]) -> np.ndarray:
    for text, line in zip(texts, lines, strict=True):
        if not (text.isascii() and text.isdigit() and len(text) < 10):
            raise InputError(f"{path} line {line}: rating is {text!r}: write a whole number from 0 on")
    return np.array([int(text) for text in texts], np.int32)


def write_csv(path: str | AnyPath, boards: Boards) -> None:
    """Write boards as `source,question,answer,rating`, in one step."""
    with replacement(as_path(path)) as new, new.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for row in range(len(boards)):
            question, answer = format_line(boards.questions[row]), format_line(boards.answers[row])
            writer.writerow((boards.sources[row], question, answer, int(boards.ratings[row])))
