"""The one error that a user can mend."""


class InputError(ValueError):
    """Bad input: the message is one line that says what was got, what was expected, and the cure.

    The command line prints it without a traceback and exits with 2. Any other exception is a defect
    of ours and keeps its traceback.
    """
