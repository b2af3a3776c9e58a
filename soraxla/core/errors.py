"""The error that a user can correct."""


class UserError(ValueError):
    """A mistake in a command, a setting or a file, described on one line.

    The message names the file or setting, what was expected and what to do. The command
    line prints it without a traceback; every other exception counts as a bug.
    """
