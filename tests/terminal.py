"""A terminal to write to, and what a person would have seen there."""

from __future__ import annotations

import os
import pty
import re
import threading


class Terminal:
    """A terminal while it is entered; `name` is its file."""

    def __enter__(self) -> Terminal:
        self._ours, self._theirs = pty.openpty()
        self.name, self._shown = os.ttyname(self._theirs), bytearray()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        return self

    def __exit__(self, *_) -> None:
        os.close(self._theirs)
        self._reader.join()
        os.close(self._ours)

    def _read(self) -> None:
        try:
            while chunk := os.read(self._ours, 4096):
                self._shown.extend(chunk)
        except OSError:  # how Linux says that nobody holds the other end any more
            pass

    @property
    def text(self) -> str:
        """All that was written before it was left, without the control sequences."""
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self._shown.decode())
