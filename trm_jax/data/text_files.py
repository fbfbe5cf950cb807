"""Text files as others write them: encodings, and CSV files of puzzles."""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
from collections.abc import Iterator
from typing import BinaryIO, TextIO

from trm_jax.errors import InputError
from trm_jax.storage.paths import AnyPath

COLUMNS = {  # and what the public sets call them
    "source": ("source",),
    "question": ("question", "puzzle", "puzzles", "quiz", "quizzes"),
    "answer": ("answer", "solution", "solutions"),
    "rating": ("rating",),
}

Fields = tuple[str, str, str, str]  # as COLUMNS; "" where the file has no such column


def open_text(file: BinaryIO) -> TextIO:
    """The text of a binary file with `peek`: UTF-8, or UTF-16 with its mark, packed by gzip or not.

    Line ends stay as they are. Reading raises UnicodeError, EOFError or gzip.BadGzipFile for what is no text.
    """
    if file.peek(2)[:2] == b"\x1f\x8b":
        file = gzip.open(file)
    utf16 = file.peek(2)[:2] in (b"\xff\xfe", b"\xfe\xff")
    return io.TextIOWrapper(file, "utf-16" if utf16 else "utf-8-sig", newline="")


def names_csv(path: AnyPath) -> bool:
    """Whether a path names one file, which may be missing, and not a folder of them."""
    return path.is_file() or path.name.endswith((".csv", ".csv.gz")) and not path.is_dir()


def _header(line: str) -> tuple[str, int, dict[str, int]]:
    """(separator, number of fields, role -> place) of the line that names the columns."""
    separator = max(",;\t", key=line.count)
    names = [name.strip().lower() for name in next(csv.reader([line], delimiter=separator), [])]
    places = {role: next((names.index(n) for n in known if n in names), None) for role, known in COLUMNS.items()}
    return separator, len(names), {role: place for role, place in places.items() if place is not None}


def is_table(text: str) -> bool:
    """Whether `text` is a CSV file: its first line that is not empty names a column that we know."""
    return bool(_header(next((line for line in text.splitlines() if line.strip()), "")[:1000])[2])


def table(file: TextIO, name: str, need: tuple[str, ...] = ("question", "answer")) -> Iterator[tuple[int, Fields]]:
    """(line, fields) of every row, spaces and all.

    Raises `InputError` for a column of `need` that is missing and for a row of another length.
    """
    above, first = next(((n, line) for n, line in enumerate(file) if line.strip()), (0, ""))
    separator, width, places = _header(first)
    for role in need:
        if role not in places:
            wanted = f"the first line must be {','.join(COLUMNS)} (source and rating may be missing)"
            raise InputError(f"{name} line {above + 1}: no column {role}: {wanted}".lstrip())
    order = [places.get(role, width) for role in COLUMNS]
    reader = csv.reader(file, delimiter=separator)
    for fields in reader:
        if not fields:
            continue
        line = above + 1 + reader.line_num
        if len(fields) != width:
            raise InputError(f"{name} line {line}: {len(fields)} fields where the header has {width}".lstrip())
        fields.append("")
        yield line, tuple(fields[place] for place in order)


@contextlib.contextmanager
def readable(path: AnyPath, kind: str) -> Iterator[None]:
    """Where a CSV file of puzzles of a `kind` is read: raises InputError for one that is not there or no text."""
    try:
        yield
    except FileNotFoundError:
        build = f"`trm data {kind} build --output-dir {path.parent}` makes train.csv and test.csv"
        raise InputError(f"{path} does not exist: {build}, or take the public set with data.source=hub") from None
    except IsADirectoryError:
        raise InputError(f"{path} is a folder: name a CSV file in it") from None
    except (UnicodeError, csv.Error, EOFError, gzip.BadGzipFile) as error:
        raise InputError(f"{path} is not a CSV text file in UTF-8 or UTF-16 ({error}): save it as one") from None
