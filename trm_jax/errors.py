"""Exceptions that are told in one line: the input is wrong, or something out there does not answer."""


class InputError(ValueError):
    """Bad input from a person: a config key, a file, a board, a checkpoint, a topology.

    The message is one line that says what is wrong, where, and how to mend it.
    The command line prints it as `error: ...` and exits with code 2, which no launcher retries.
    """


class OutOfReach(Exception):
    """A storage, the hub or another process did not answer, however often it was asked. What was asked is not wrong.

    The command line prints it as `error: ...` and exits with code 69: the same command may work the next time.
    """
