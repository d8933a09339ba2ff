"""The one error that a user can mend, and the cure for a name that is not known."""

import difflib
from collections.abc import Collection


class InputError(ValueError):
    """Bad input: the message is one line that says what was got, what was expected, and the cure.

    The command line prints it without a traceback and exits with 2. Any other exception is a defect
    of ours and keeps its traceback.
    """


def check_choice(what: str, value: object, choices: Collection[object]) -> None:
    """Refuse a value that is none of the choices."""
    if value not in choices:
        expected = ", ".join(map(str, choices))
        raise InputError(f"{what} {value!r}; expected one of {expected}")


def suggest_name(name: object, known: Collection[str], otherwise: str = "") -> str:
    """The cure for a name that is not known: the nearest that is, else the advice given, else all."""
    close = difflib.get_close_matches(str(name), known, n=1)
    return (
        f"did you mean {close[0]}?" if close else otherwise or f"expected one of {', '.join(known)}"
    )
