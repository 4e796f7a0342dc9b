"""Failures that a person reads as one message, without a traceback."""


class UserError(ValueError):
    """The person's input is wrong: the message says what, where, and what to do. Exit status 2."""


class Fault(RuntimeError):
    """The machine could not do it (disk full, out of memory, a tool failed). Exit status 1."""


class OutOfMemory(Fault):
    """The GPU's memory ran out, and nothing was left that could be given back."""
