"""The one error that a user can cause."""

_LONGEST, _HALF = 1_500, 700  # characters; a damaged field can be as long as its file


class InputError(ValueError):
    """Bad input or bad usage: the message says what was got, what was expected, where, and the remedy.

    The command line prints the message alone and exits with 2.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message if len(message) <= _LONGEST else f"{message[:_HALF]} ... {message[-_HALF:]}")


class UnknownItem(InputError):
    """An item that the model does not know, or a playlist that is not among the embedded ones."""
