"""Text files as others write them."""

from __future__ import annotations

import gzip
import io
from typing import BinaryIO, TextIO


def open_text(file: BinaryIO) -> TextIO:
    """The text of a binary file with `peek`: UTF-8, or UTF-16 with its mark, packed by gzip or not.

    Line ends stay as they are. Reading raises UnicodeError, EOFError or gzip.BadGzipFile for what is no text.
    """
    if file.peek(2)[:2] == b"\x1f\x8b":
        file = gzip.open(file)
    utf16 = file.peek(2)[:2] in (b"\xff\xfe", b"\xfe\xff")
    return io.TextIOWrapper(file, "utf-16" if utf16 else "utf-8-sig", newline="")
