"""CSV files of puzzles, `source,question,answer,rating`: reading with every row proven, atomic writing."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from trm_jax.data.boards import BAD, DIGIT_OF_BYTE, SIZES, Boards, complete, conflicts, format_line, parse_board
from trm_jax.data.solver import solve
from trm_jax.errors import InputError

COLUMNS = ("source", "question", "answer", "rating")
_CHUNK = 2048

Progress = Callable[[int, int], None]


def read_csv(path: str | os.PathLike, *, progress: Progress | None = None) -> Boards:
    """Read and prove every row of a CSV file with the columns `source,question,answer,rating`.

    The size of the boards (4, 6, 9) is that of the first row. Raises `InputError` naming file and line (as an editor
    counts them) for a missing file or column, a wrong length, a bad letter or rating, contradicting clues, no
    solution, several solutions, or a wrong answer. `progress(done, total)` is called while the rows are solved.
    """
    path = Path(path)
    sources, questions, answers, ratings, lines = _columns(path)
    size = {n * n: n for n in SIZES}.get(len(questions[0]))
    if size is None:
        parse_board(questions[0], f"{path} line {lines[0]}, question")
    question_cells = _cells(questions, size, path, lines, "question")
    answer_cells = _cells(answers, size, path, lines, "answer")
    boards = Boards(size, question_cells, answer_cells, _ratings(ratings, path, lines), tuple(sources), str(path),
                    np.array(lines, np.int64))  # fmt: skip
    prove(boards, progress=progress)
    return boards


def _columns(path: Path) -> tuple[list[str], list[str], list[str], list[str], list[int]]:
    """The four columns and the line number of every row."""
    if not path.is_file():
        raise InputError(
            f"{path} does not exist: `trm data sudoku build --output-dir {path.parent}` makes train.csv and test.csv, "
            "or take the public set with data.source=hub"
        )
    rows: list[tuple[str, str, str, str]] = []
    lines: list[int] = []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
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
                        f"{path} line {reader.line_num}: {len(fields)} fields, the header has {len(header)}"
                    )
                rows.append(tuple(fields[place].strip() for place in places))
                lines.append(reader.line_num)
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is not a CSV text file in UTF-8: {error}") from None
    if not rows:
        raise InputError(f"{path} holds no puzzle: it needs at least one row below the header")
    sources, questions, answers, ratings = (list(column) for column in zip(*rows, strict=True))
    return sources, questions, answers, ratings, lines


def _cells(texts: list[str], size: int, path: Path, lines: list[int], column: str) -> np.ndarray:
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


def _ratings(texts: list[str], path: Path, lines: list[int]) -> np.ndarray:
    for text, line in zip(texts, lines, strict=True):
        if not (text.isascii() and text.isdigit() and len(text) < 10):
            raise InputError(f"{path} line {line}: rating is {text!r}: write a whole number from 0 on")
    return np.array([int(text) for text in texts], np.int32)


def prove(boards: Boards, *, progress: Progress | None = None) -> None:
    """Raise `InputError`, naming the first bad row, unless every puzzle has one solution and that is its answer."""
    clues = boards.questions > 0
    contradiction = conflicts(boards.questions, boards.size)
    counts = np.zeros(len(boards), np.int32)
    starts = range(0, len(boards), _CHUNK)

    def count(start: int) -> None:
        part = slice(start, start + _CHUNK)
        counts[part] = solve(boards.questions[part], boards.size)[1]

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start, _ in zip(starts, pool.map(count, starts), strict=True):
            if progress is not None:
                progress(min(start + _CHUNK, len(boards)), len(boards))
    checks = (
        (contradiction, "the clues contradict each other: a digit stands twice in a row, column or box"),
        (counts == 0, "the question has no solution"),
        (counts > 1, "the question has two or more solutions: add clues"),
        (~complete(boards.answers, boards.size), "the answer is not a valid filled board"),
        ((clues & (boards.questions != boards.answers)).any(axis=1), "the answer disagrees with the clues"),
    )
    bad = np.any([mask for mask, _ in checks], axis=0)
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        message = next(text for mask, text in checks if mask[row])
        raise InputError(f"{boards.origin} line {boards.rows[row]}: {message}; correct or delete this row")


def write_csv(path: str | os.PathLike, boards: Boards) -> None:
    """Write boards as `source,question,answer,rating` under a temporary name, then rename: never half a file."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(COLUMNS)
            for row in range(len(boards)):
                question, answer = format_line(boards.questions[row]), format_line(boards.answers[row])
                writer.writerow((boards.sources[row], question, answer, int(boards.ratings[row])))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
