"""The base class of all errors that cmk raises for a person to read."""


class CmkError(Exception):
    """The text says what is wrong, where, and what to do about it. The command line prints it as one line, without a traceback."""
