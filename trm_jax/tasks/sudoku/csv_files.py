"""CSV files of puzzles: read as others write them, verified once, written in one step.

What a long file holds is kept in a cache by the hash of its bytes, with a mark on every row that was verified: a
second start neither parses nor solves it again.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import itertools
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from trm_jax.data.text_files import COLUMNS, Fields, open_text, readable, table
from trm_jax.errors import InputError
from trm_jax.storage.paths import AnyPath, as_path, cache_folder, local_copy, replacement
from trm_jax.tasks import Progress
from trm_jax.tasks.sudoku.boards import SIZE_OF, SYMBOLS, Boards

BAD = 255  # what `DIGIT_OF_BYTE` holds for a character that is neither a blank nor a digit
DIGIT_OF_BYTE = np.full(256, BAD, np.uint8)
DIGIT_OF_BYTE[list(b".0_*xX")] = 0
for _letters in (SYMBOLS, SYMBOLS.lower()):
    DIGIT_OF_BYTE[list(_letters.encode())] = np.arange(len(SYMBOLS))
CELLS = "16, 36, 81 or 256"  # of a board, for messages

_BLOCK = 65_536  # rows held as text at a time: the hub's training file has 3.8 million
_VERIFIED_WHOLE = 500_000  # rows; of a longer file only those in use are solved
_WORTH_KEEPING = 20_000  # rows; a shorter file is read and verified in about a second
_FORMAT = 1  # of what is kept
_UNRATED = -1


def digits_of(size: int) -> str:
    """How the digits of a board are written, for messages."""
    return f"1..{size}" if size <= 9 else f"1..9 and A..{SYMBOLS[size]}"


def rows_of(table: Iterator[tuple[int, Fields]]) -> Iterator[tuple[int, Fields]]:
    """The rows of a table of boards; zeros that a spreadsheet dropped at the start of a question are put back."""
    for line, fields in table:
        source, question, answer, rating = (field.strip() for field in fields)
        if len(question) < len(answer) and question.isdigit() and "0" in question:  # an answer has none to lose
            question = question.zfill(len(answer))
        yield line, (source, question, answer, rating)


def read_csv(
    path: str | AnyPath, *, select: Callable[[int], np.ndarray] | None = None, progress: Progress | None = None
) -> Boards:
    """Read a CSV file of puzzles and verify it; its first row tells the boards' size.

    Columns: question, answer and, if there are any, source and rating (missing ratings are the guesses of our
    solver); also called quizzes, puzzle, solution. `select(number of rows)` names the rows to return, [M] indices
    (None: all). Every row is checked: its form, its clues, its answer, and, in files of up to 500,000 rows, that it
    has one solution; of longer files that is verified for the rows returned. Raises `InputError` naming file and line
    (as an editor counts them). `progress(done, total)` is called while rows are read (in bytes) and solved.
    """
    from trm_jax.tasks.sudoku.verify import verify

    path = as_path(path)
    with readable(path, "sudoku"), local_copy(path) as copy:
        rows = _verified(path, copy, progress)
    chosen = np.arange(len(rows)) if select is None else select(len(rows))
    due = chosen[~rows["verified"][chosen]]
    if len(due):
        _mark(rows, due, verify(_boards(rows[due], path), progress=progress))
    return _boards(rows[chosen], path)


def _verified(path: AnyPath, copy: Path, progress: Progress | None) -> np.ndarray:
    """All rows of a file, out of the cache or read and checked; those of a long file stay on the disk, marks too."""
    from trm_jax.tasks.sudoku.verify import check_rules, verify

    with copy.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    kept = cache_folder() / "puzzles" / f"{digest}_{_FORMAT}.npy"
    with contextlib.suppress(OSError, ValueError):  # not there, not ours to write, or damaged
        return np.load(kept, mmap_mode="r+")
    rows = _read(path, copy, progress)
    if len(rows) <= _VERIFIED_WHOLE:
        _mark(rows, slice(None), verify(_boards(rows, path), progress=progress))
    for start in range(0, len(rows), _BLOCK):  # in parts: a copy of the whole would take gigabytes
        check_rules(_boards(rows[start : start + _BLOCK], path))
    if len(rows) >= _WORTH_KEEPING:
        with contextlib.suppress(OSError, InputError):  # no place to keep them: they are read again the next time
            with replacement(kept) as new, new.open("wb") as output:
                np.save(output, rows)
            return np.load(kept, mmap_mode="r+")
    return rows


def _mark(rows: np.ndarray, which: slice | np.ndarray, ratings: np.ndarray) -> None:
    """`which` rows are verified; those without a rating get ours."""
    rows["rating"][which] = np.where(rows["rating"][which] == _UNRATED, ratings, rows["rating"][which])
    rows["verified"][which] = True


def _boards(rows: np.ndarray, path: AnyPath) -> Boards:
    columns = (np.ascontiguousarray(rows[name]) for name in ("question", "answer", "rating"))
    size = SIZE_OF[rows["question"].shape[1]]
    return Boards(size, *columns, np.char.decode(rows["source"], "utf-8"), str(path), rows["line"].astype(np.int64))


def _read(path: AnyPath, copy: Path, progress: Progress | None) -> np.ndarray:
    """The rows of a file, as records: question, answer, rating, source, line, verified."""
    blocks, total, size = [], copy.stat().st_size, 0
    with copy.open("rb") as raw, open_text(raw) as text:
        rows_of_text = rows_of(table(text, str(path)))
        while block := list(itertools.islice(rows_of_text, _BLOCK)):
            lines, fields = zip(*block, strict=True)
            sources, questions, answers, ratings = zip(*fields, strict=True)
            size = size or SIZE_OF.get(len(answers[0])) or SIZE_OF.get(len(questions[0]))
            if not size:
                said = f"question has {len(questions[0])} characters, a board has {CELLS}"
                raise InputError(f"{path} line {lines[0]}: {said}")
            names = np.char.encode(np.array(sources), "utf-8")
            kinds = [("question", "u1", size**2), ("answer", "u1", size**2), ("rating", "i4"), ("line", "i8"),
                     ("verified", "?"), ("source", f"S{names.itemsize}")]  # fmt: skip
            rows = np.zeros(len(block), kinds)
            rows["question"] = _cells(questions, size, path, lines, "question")
            rows["answer"] = _cells(answers, size, path, lines, "answer")
            rows["rating"] = _ratings(ratings, path, lines)
            rows["line"], rows["source"] = lines, names
            blocks.append(rows)
            if progress is not None:
                progress(raw.tell(), total)
    if not blocks:
        raise InputError(f"{path} holds no puzzle: it needs at least one row below the header")
    return np.concatenate(blocks)


def _cells(texts: tuple[str, ...], size: int, path: AnyPath, lines: tuple[int, ...], column: str) -> np.ndarray:
    """[N, size*size] uint8 digits of board texts."""
    for text, line in zip(texts, lines, strict=True):
        if len(text) != size * size:
            said = f"{column} has {len(text)} characters, expected {size * size}"
            raise InputError(f"{path} line {line}: {said}; a spreadsheet loses digits, import the column as text")
    letters = np.frombuffer("".join(texts).encode("ascii", "replace"), np.uint8)
    cells = DIGIT_OF_BYTE[letters].reshape(len(texts), size * size)
    bad = (cells == BAD) | (cells > size)
    if bad.any():
        row, place = np.argwhere(bad)[0]
        said = f"character {place + 1} of {column} is {texts[row][place]!r}"
        raise InputError(f"{path} line {lines[row]}: {said}: write {digits_of(size)}, and . or 0 for a blank")
    return cells


def _ratings(texts: tuple[str, ...], path: AnyPath, lines: tuple[int, ...]) -> list[int]:
    for text, line in zip(texts, lines, strict=True):
        if not re.fullmatch(r"([0-9]{1,9}(\.0)?)?", text):
            raise InputError(f"{path} line {line}: rating is {text!r}: write a whole number from 0 on, or nothing")
    return [int(text.removesuffix(".0") or _UNRATED) for text in texts]


def write_csv(path: str | AnyPath, boards: Boards) -> None:
    """Write boards as `source,question,answer,rating`, in one step."""
    digits = np.frombuffer(SYMBOLS.encode(), "S1")
    lines = (digits[cells].view(f"S{boards.size**2}")[:, 0] for cells in (boards.questions, boards.answers))
    with replacement(as_path(path)) as new, new.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(zip(boards.sources, *np.char.decode([*lines]), boards.ratings, strict=True))
