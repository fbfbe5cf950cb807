"""The one exception that means "the input is wrong, and here is how to mend it"."""


class InputError(ValueError):
    """Bad input from a person: a config key, a file, a board, a checkpoint, a topology.

    The message is one line that says what is wrong, where, and how to mend it.
    The command line prints it as `error: ...` and exits with code 2, which no launcher retries.
    """
