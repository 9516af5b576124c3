"""The errors that reach a user, and the exit codes. Each error is one sentence or two: what was
wrong, where, what to do."""

MISSED, MISTAKE, FAULT, STOPPED = 1, 2, 70, 130
"""Exit codes: a requirement missed, a user's mistake, a fault in edgeprune, Ctrl-C."""


class UserError(Exception):
    """A user's mistake, explained in a sentence; the command line exits with code 2."""


class ModelFault(UserError):
    """A fault of the model itself, whatever the request; the service answers with 500."""


class RequirementMissed(Exception):
    """A stated requirement was measured and missed; the command line exits with code 1."""


_MOST = 400


def reason(error: BaseException) -> str:
    """A library's error in one line of 400 characters at most, to end a sentence of ours."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= _MOST else f"{text[:_MOST]}..."
