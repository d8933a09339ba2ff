"""The parameters cell of a notebook: what it declares, and whether given values fit.

papermill only logs an unknown name, and takes any value. Here the annotations of the one cell tagged
``parameters`` (``SEED: int = 0``) are the contract, checked before a kernel starts.
"""

import ast
import math
import types
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, get_args, get_origin

import yaml

from ktda.errors import InputError

TAG = "parameters"
_SIMPLE = {"int": int, "float": float, "str": str, "bool": bool, "list": list, "dict": dict}


@dataclass(frozen=True)
class Parameter:
    """One line of the parameters cell: its name, its annotation as written and as a type, its default."""

    name: str
    annotation: str
    kind: Any
    default: Any


def declared_parameters(notebook: dict, name: str) -> dict[str, Parameter]:
    """Parameters that a notebook declares, in order.

    Args:
        notebook: The notebook as nbformat reads it.
        name: What to call it in an error.

    Raises:
        InputError: Not exactly one code cell is tagged ``parameters``, or that cell holds anything but
            annotated literals in upper case whose defaults have the annotated type.
    """
    cells = [cell for cell in notebook["cells"] if TAG in cell.get("metadata", {}).get("tags", [])]
    if len(cells) != 1 or cells[0]["cell_type"] != "code":
        raise InputError(
            f"{name}: {len(cells)} cells are tagged `{TAG}`, expected exactly one code cell; "
            "set the tag in JupyterLab's property inspector"
        )
    source = cells[0]["source"]
    try:
        statements = ast.parse(source if isinstance(source, str) else "".join(source)).body
    except SyntaxError as error:
        raise InputError(f"{name}: line {error.lineno} of the parameters cell is not Python: {error.msg}") from None
    found: dict[str, Parameter] = {}
    for statement in statements:
        parameter = _parameter(statement, name)
        if parameter.name in found:
            raise InputError(f"{name}: parameter {parameter.name} is declared twice; keep one line")
        found[parameter.name] = parameter
    return found


def check_values(declared: dict[str, Parameter], values: dict[str, Any], name: str) -> None:
    """Refuse unknown names and wrong types; an int is accepted where float is declared.

    Raises:
        InputError: With the name, what was got and what was expected.
    """
    for key, value in values.items():
        parameter = _known(declared, key, name)
        if not _fits(value, parameter.kind):
            raise InputError(
                f"{name}: parameter {key} is {value!r} ({type(value).__name__}), expected {parameter.annotation}"
            )


def values_from_text(declared: dict[str, Parameter], pairs: Iterable[tuple[str, str]], name: str) -> dict[str, Any]:
    """Values as typed on a command line, converted by the annotations.

    A list is given as ``[a, b]``, as one plain element, or by repeating its name; a dict as ``{key: value}``;
    a bool as true or false; None, where allowed, as none.

    Raises:
        InputError: An unknown name, a name given twice that is no list, or text that does not convert.
    """
    values: dict[str, Any] = {}
    for key, text in pairs:
        parameter = _known(declared, key, name)
        try:
            value = _convert(text, parameter.kind)
        except (ValueError, yaml.YAMLError):
            raise InputError(
                f"{name}: parameter {key} is {text!r}, expected {parameter.annotation}, as in {_example(parameter)}"
            ) from None
        if key not in values:
            values[key] = value
        elif isinstance(value, list) and isinstance(values[key], list):
            values[key] = values[key] + value
        else:
            raise InputError(f"{name}: parameter {key} ({parameter.annotation}) is given twice; give it once")
    return values


def _parameter(statement: ast.stmt, name: str) -> Parameter:
    """One statement of the parameters cell."""
    shape = isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name) and statement.value
    if not shape or not statement.target.id.isupper():
        raise InputError(
            f"{name}: the parameters cell may only hold lines such as `SEED: int = 0` (upper case, annotated, "
            f"a literal), got `{ast.unparse(statement).splitlines()[0]}`"
        )
    label, annotation = statement.target.id, ast.unparse(statement.annotation)
    try:
        kind = _kind(statement.annotation)
    except (KeyError, TypeError):
        raise InputError(
            f"{name}: parameter {label} has the annotation `{annotation}`, expected one of {', '.join(_SIMPLE)}, "
            "list[...] of these, or one of them with `| None`"
        ) from None
    try:
        default = ast.literal_eval(statement.value)
    except ValueError:
        raise InputError(
            f"{name}: the default of {label} is `{ast.unparse(statement.value)}`, expected a literal; derive "
            "values in the cell after the parameters, which papermill runs with the given ones"
        ) from None
    if not _fits(default, kind):
        raise InputError(f"{name}: the default of {label} is {default!r}, but its annotation is {annotation}")
    return Parameter(label, annotation, kind, default)


def _kind(node: ast.expr) -> Any:
    """The type an annotation means; KeyError or TypeError for what is not supported."""
    match node:
        case ast.Constant(value=None):
            return types.NoneType
        case ast.Name(id=simple):
            return _SIMPLE[simple]
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return _kind(left) | _kind(right)
        case ast.Subscript(value=ast.Name(id="list"), slice=element):
            return list[_kind(element)]
        case ast.Subscript(value=ast.Name(id="dict"), slice=ast.Tuple(elts=[key, value])):
            return dict[_kind(key), _kind(value)]
    raise TypeError(ast.unparse(node))


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value has a type of the parameters cell."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is types.UnionType:
        return any(_fits(value, option) for option in inner)
    if origin is list:
        return isinstance(value, list) and all(_fits(element, inner[0]) for element in value)
    if origin is dict:
        return isinstance(value, dict) and all(
            _fits(key, inner[0]) and _fits(element, inner[1]) for key, element in value.items()
        )
    if isinstance(value, bool):  # bool is an int in Python, and almost never meant as one
        return kind is bool
    if kind is float:  # nan and infinity have no place in json
        return isinstance(value, int | float) and math.isfinite(value)
    return isinstance(value, kind)


def _convert(text: str, kind: Any) -> Any:
    """Text of a command line as a value; ValueError or YAMLError where it is none."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is types.UnionType:
        if types.NoneType in inner and text.lower() in {"none", "null"}:
            return None
        # A string takes any text, so it is asked last: `int | str` reads 3 as a number.
        for option in sorted((o for o in inner if o is not types.NoneType), key=lambda o: o is str):
            try:
                return _convert(text, option)
            except (ValueError, yaml.YAMLError):
                continue
        raise ValueError(text)
    if kind is bool:
        return {"true": True, "false": False}[text.lower()] if text.lower() in {"true", "false"} else _no(text)
    if (origin or kind) is list:
        element = inner[0] if inner else str
        value = yaml.safe_load(text) if text.lstrip().startswith("[") else [_convert(text, element)]
    else:
        value = kind(text) if kind in (int, float, str) else yaml.safe_load(text)
    return value if _fits(value, kind) else _no(text)


def _no(text: str) -> Any:
    raise ValueError(text)


def _known(declared: dict[str, Parameter], key: str, name: str) -> Parameter:
    if key not in declared:
        raise InputError(
            f"{name} has no parameter {key}; it has {', '.join(declared) or 'none'} (names are upper case)"
        )
    return declared[key]


def _example(parameter: Parameter) -> str:
    """How the parameter would be given on a command line."""
    default = parameter.default
    if isinstance(default, bool):
        text = str(default).lower()
    elif isinstance(default, list | dict):
        text = '"[a, b]"' if isinstance(default, list) else '"{a: 1}"'
    else:
        text = {"int": "1", "float": "0.5"}.get(parameter.annotation, str(default))
    return f"`-p {parameter.name} {text}`"
