"""Strict schemas: a mapping from outside becomes a pydantic model, or one line says what is wrong.

A field's type and bounds stand in the model; its ``description`` tells a user what is expected.
Nothing is converted by guess: true is no number, 2.0 no integer, "3" neither.
"""

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from ktda.errors import InputError, suggest_name

Model = TypeVar("Model", bound=BaseModel)


class Strict(BaseModel):
    """A model that takes its own fields only, converts nothing and never changes."""

    model_config = ConfigDict(
        frozen=True,
        strict=True,
        extra="forbid",
        allow_inf_nan=False,
        hide_input_in_errors=True,
    )


def parse(model: type[Model], content: Any, name: str = "") -> Model:
    """A checked model of plain values; lists will do for tuples.

    Args:
        model: a subclass of `Strict`.
        content: what was read.
        name: of the content, in front of a message.

    Raises:
        InputError: no mapping, an unknown or missing key, or a value that does not fit.
    """
    # By name as a user writes it: `set` in a table is `overrides` in its model.
    fields = {field.alias or key: field for key, field in model.model_fields.items()}
    prefix = f"{name}: " if name else ""
    if not isinstance(content, Mapping):
        got = f"{content!r:.60}"
        raise InputError(f"{prefix}got {got}; expected a mapping with {', '.join(fields)}")
    for key in content:
        if key not in fields:
            raise InputError(f"{prefix}unknown key {key!r:.60}; {suggest_name(key, fields)}")
    try:
        return model.model_validate({key: tuples(value) for key, value in content.items()})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
    if not first["loc"]:  # of a validator across fields, which words its message itself
        raise InputError(f"{prefix}{first['ctx']['error']}")
    key = first["loc"][0]
    if first["type"] == "missing" and len(first["loc"]) == 1:
        raise InputError(f"{prefix}no {key}; expected {fields[key].description}")
    # A validator of ours may say more exactly what it expects.
    reason = first.get("ctx", {}).get("error")
    expected = reason if isinstance(reason, InputError) else fields[key].description
    raise InputError(f"{prefix}{key}={content[key]!r:.80}; expected {expected}")


def tuples(value: Any) -> Any:
    """Lists, at any depth, as tuples: they can be compared, hashed and not changed."""
    return tuple(map(tuples, value)) if isinstance(value, list | tuple) else value
