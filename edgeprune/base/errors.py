"""The errors that reach a user, and the exit codes. Each error is one sentence or two: what was
wrong, where, what to do."""

MISSED, MISTAKE, FAULT, STOPPED = 1, 2, 70, 130
"""Exit codes: a requirement missed, a mistake of the user's, a fault of ours, Ctrl-C."""


class UserError(Exception):
    """The user's mistake, told in a sentence; the command line exits with code 2."""


class ModelFault(UserError):
    """The model's own fault, whatever it was asked; the service answers with 500."""


class RequirementMissed(Exception):
    """A stated requirement was measured and missed; the command line exits with code 1."""
