"""The one error that a user can cause."""


class InputError(ValueError):
    """Bad input or bad usage: the message says what was got, what was expected, where, and the remedy.

    The command line prints the message alone and exits with 2.
    """


class UnknownItem(InputError):
    """An item that the model does not know."""
