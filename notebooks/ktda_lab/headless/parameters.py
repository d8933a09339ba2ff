"""The parameters cell of a notebook: what it declares, and whether given values fit.

papermill only logs an unknown name, and takes any value. Here the annotations of the one cell tagged
``parameters`` (``SEED: int = 0``) are the contract, checked before a kernel starts.
"""

import ast
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ktda.errors import InputError

_ANNOTATION = re.compile(r"(?P<list>list\[)?(?P<kind>int|float|str|bool)(?(list)\])(?P<none> \| None)?")


@dataclass(frozen=True)
class Parameter:
    """One line of the parameters cell: its name, its annotation as written, its default."""

    name: str
    annotation: str
    default: Any

    def fits(self, value: Any) -> bool:
        """Whether a value is of the annotated type; an int is a float too, but a bool is no int."""
        form = _ANNOTATION.fullmatch(self.annotation)
        if value is None or isinstance(value, list) != bool(form["list"]):
            return value is None and bool(form["none"])
        elements = value if form["list"] else [value]
        if form["kind"] == "float":  # nan and infinity have no place in json
            return all(type(element) in (int, float) and math.isfinite(element) for element in elements)
        return all(type(element).__name__ == form["kind"] for element in elements)


def declared_parameters(notebook: dict, name: str) -> dict[str, Parameter]:
    """Parameters that a notebook, as nbformat reads it, declares; called `name` in errors.

    Raises:
        InputError: Not exactly one code cell is tagged ``parameters``, or that cell holds anything but
            annotated literals in upper case whose defaults have the annotated type.
    """
    cells = [cell for cell in notebook["cells"] if "parameters" in cell["metadata"].get("tags", [])]
    if len(cells) != 1 or cells[0]["cell_type"] != "code":
        raise InputError(f"{name}: {len(cells)} cells are tagged `parameters`, expected exactly one code cell")
    try:
        lines = ast.parse(cells[0]["source"]).body
    except SyntaxError as error:
        raise InputError(f"{name}: line {error.lineno} of the parameters cell is not Python: {error.msg}") from None
    found: dict[str, Parameter] = {}
    for line in lines:
        try:
            parameter = Parameter(line.target.id, ast.unparse(line.annotation), ast.literal_eval(line.value))
            sound = parameter.name.isupper() and parameter.name not in found and parameter.fits(parameter.default)
        except (AttributeError, TypeError, ValueError):  # no annotated name, no known type, or no literal
            sound = False
        if not sound:
            raise InputError(
                f"{name}: the parameters cell may only hold lines such as `SEED: int = 0` (upper case, each once, a "
                f"literal of int, float, str, bool, list[...] or ... | None), got `{ast.unparse(line).splitlines()[0]}`"
            )
        found[parameter.name] = parameter
    return found


def check_values(declared: dict[str, Parameter], values: dict[str, Any], name: str) -> None:
    """Refuse unknown names and wrong types.

    Raises:
        InputError: With the name, what was got and what was expected.
    """
    for key, value in values.items():
        if key not in declared:
            known = ", ".join(declared) or "none"
            raise InputError(f"{name} has no parameter {key}; it has {known} (names are upper case)")
        if not declared[key].fits(value):
            expected = f"{declared[key].annotation}, as in `-p {key} '{declared[key].default}'`"
            raise InputError(f"{name}: parameter {key} is {value!r}, expected {expected}")


def values_from_text(declared: dict[str, Parameter], pairs: Iterable[tuple[str, str]], name: str) -> dict[str, Any]:
    """Values as typed on a command line: Python literals, or plain text for str; a list also by its elements.

    Raises:
        InputError: An unknown name, or text of another type.
    """
    values: dict[str, Any] = {}
    for key, text in pairs:
        try:
            literal = ast.literal_eval(text)
        except (SyntaxError, TypeError, ValueError):
            literal = text
        readings = (literal, text, [literal], [text])
        value = next((v for v in readings if key in declared and declared[key].fits(v)), literal)
        check_values(declared, {key: value}, name)
        values[key] = [*(values.get(key) or []), *value] if isinstance(value, list) else value
    return values
