"""Errors that a user can fix: one line that says what is wrong, where, and what to do."""


class UserError(Exception):
    """A problem in the user's data, files or arguments.

    Its message is one line that needs no traceback.
    """


class DataError(UserError):
    """A dataset, an annotation file or an image can't be used."""


class CheckpointError(UserError):
    """A checkpoint can't be used."""


class ArgumentError(UserError, ValueError):
    """An argument, usually a key of a config, is out of its range; the message names it."""


def first_line(error: Exception) -> str:
    """The first line of an error's message, or its type if it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def kind_and_reason(error: Exception) -> str:
    """An error's type and the first line of its message."""
    return f'{type(error).__name__}: {first_line(error)}'
