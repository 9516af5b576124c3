"""The command line's entry: the first to hear of a Ctrl-C, and the last to hear of an error."""

import sys

try:
    from edgeprune.base.errors import FAULT, STOPPED
    from edgeprune.base.interrupt import WORDS, leave, listen, pressed
except KeyboardInterrupt:  # pressed before anything listens
    print("edgeprune: Stopped.", file=sys.stderr)
    sys.exit(130)

TRACEBACK = "EDGEPRUNE_TRACEBACK"
"""The variable that shows a fault's traceback, where it is set, instead of keeping it in a file."""


def main() -> None:
    """Run the command that the process was given, and end it with the command's exit code."""
    listen()
    try:
        _show_what_cannot_be_encoded()
        from edgeprune import cli

        cli.main()
    except SystemExit:
        leave()
        raise
    except BaseException as error:
        leave()
        if pressed or isinstance(error, KeyboardInterrupt):
            print(WORDS, file=sys.stderr)
            sys.exit(STOPPED)
        _tell_of_a_fault(error)
        sys.exit(FAULT)


def _show_what_cannot_be_encoded() -> None:
    """Let a terminal of few characters show the others as JSON escapes them, in JSON too."""
    import codecs
    import io

    def escape(error: UnicodeError) -> tuple[str, int]:
        import json

        if not isinstance(error, UnicodeEncodeError):
            raise error
        return json.dumps(error.object[error.start : error.end])[1:-1], error.end

    codecs.register_error("edgeprune", escape)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="edgeprune")


def _tell_of_a_fault(error: BaseException) -> None:
    """Say in a line that an error is nobody's mistake but ours, and where its traceback is."""
    import os
    import tempfile
    import traceback

    from edgeprune.base.escape import one_line

    text = "".join(traceback.format_exception(error))
    where = f"set {TRACEBACK}=1 to see where"
    if os.environ.get(TRACEBACK):
        sys.stderr.write(text)
        where = "see above"
    else:
        try:
            number, name = tempfile.mkstemp(prefix="edgeprune-fault-", suffix=".txt")
            with open(number, "w", encoding="utf-8", errors="backslashreplace") as file:
                file.write(text)
            where = f"{name} says where"
        except OSError:  # nowhere to keep it
            pass
    reason = one_line("".join(traceback.format_exception_only(error)))
    print(
        f"edgeprune: this is a fault of edgeprune's, and none of yours: {reason} ({where}).",
        file=sys.stderr,
    )


if __name__ == "__main__":
    main()
