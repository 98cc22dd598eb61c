"""The one exception that is the user's to mend; the mains print it as one line and leave with 2."""


class UserError(Exception):
    """Something the user gave is wrong: an option, a path, a file, a workdir of another config.

    The message is one line, names the thing by its path or option, and says what would be right.
    """
