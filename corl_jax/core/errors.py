"""The one error that a user is meant to read."""


class UserError(Exception):
    """Bad input: a config value, a path, a file, a prompt.

    The message is one line that names the value, what was expected and the next step. The commands
    print it without a traceback and exit with code 2; nothing has been overwritten when it is raised.
    """
