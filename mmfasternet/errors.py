"""Errors that a user can mend: one line that says what, where and what to do."""


class UserError(Exception):
    """Something in the user's data, files or arguments stops the work.

    Its text is one line, fit to be shown without a traceback.
    """


class DataError(UserError):
    """A data set, an annotation file or an image can't be used."""


class CheckpointError(UserError):
    """A checkpoint can't be used."""


class ArgumentError(UserError, ValueError):
    """An argument, most often a key of a config, is out of its range; the text names it."""
