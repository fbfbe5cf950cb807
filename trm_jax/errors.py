"""Exceptions that are told in one line: the input is wrong, or something out there does not answer."""

from __future__ import annotations

import re
from collections.abc import Iterator


class InputError(ValueError):
    """Bad input from a person: a config key, a file, a board, a checkpoint, a topology.

    The message is one line that says what is wrong, where, and how to mend it.
    The command line prints it as `error: ...` and exits with code 2, which no launcher retries.
    """


class StoppedEarly(KeyboardInterrupt):
    """A signal came before a run had anything to save."""


class OutOfReach(Exception):
    """A storage, the hub or another process did not answer, however often it was asked. What was asked is not wrong.

    The command line prints it as `error: ...` and exits with code 69: the same command may work the next time.
    """

    @property
    def reason(self) -> str:
        """What did not answer, without what a person should do: for when there is nothing to do yet."""
        return str(self).partition("; ")[0]


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what led to it: libraries raise errors of their own for those of others."""
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def tensorstore_code(error: BaseException, name: str) -> int | None:
    """The code `name` (os_error_code, http_response_code, curl_code) in an error of TensorStore, None in any other.

    TensorStore raises ValueError for everything, and its codes stand in the text: [os_error_code='28'].
    """
    found = re.search(rf"\[{name}='(\d+)'\]", str(error)) if type(error) is ValueError else None
    return int(found[1]) if found else None
