"""The errors that a user is meant to read, and a one-line text for the errors of libraries."""


class UserError(Exception):
    """Bad input: a config value, a path, a file, a prompt.

    The message is one line that names the value, what was expected and the next step; a start with
    several problems lists them, one per line (``core.problems``). Commands print it without a
    traceback and exit with code 2. Nothing has been overwritten when it is raised.
    """


class SharedError(UserError):
    """An error of one process that all processes of the run raise at the same point of a step.

    So they can still do something together before they end, such as saving.
    """


class StopRequested(Exception):
    """A signal to stop came while something ran that would not end by itself.

    On several processes all raise it at the same point of a step.
    """


def describe_error(error: BaseException, limit: int = 200) -> str:
    """Class and text of a library's error on one line of at most ``limit`` characters.

    A ``UserError`` is described by its text alone.
    """
    name = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
    text = " ".join(f"{name}{error}".split())
    return text if len(text) <= limit else text[:limit] + "..."
