"""What the schema knows at a place, which is a path of keys such as `tasks`, `sst2`, `weight`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from common.config.schema import Config


def keys_at(place: Sequence[int | str]) -> list[str]:
    """The keys of the section at a place; none where there is no section."""
    model = _section(Config, place)
    return list(model.model_fields) if model else []


def field_at(place: Sequence[int | str]) -> FieldInfo | None:
    """The field at a place, if the schema has one there."""
    model = _section(Config, place[:-1])
    return model.model_fields.get(str(place[-1])) if model else None


def wants_text(place: Sequence[int | str]) -> bool:
    """Whether the value at a place is a text, whatever it looks like."""
    field = field_at(place)
    return field is not None and _kinds(field.annotation) - {type(None)} == {str}


def _kinds(annotation: Any) -> set[Any]:
    """The types that an annotation names, without what `Annotated` says of them."""
    if isinstance(annotation, type) or not get_args(annotation):
        return {annotation}
    inner = get_args(annotation)[:1] if hasattr(annotation, "__metadata__") else get_args(annotation)
    return {kind for each in inner for kind in _kinds(each)}


def _section(kind: Any, place: Sequence[int | str]) -> type[BaseModel] | None:
    """The section at a place below `kind`, which is a section or a container of sections."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        if not place:
            return kind
        field = kind.model_fields.get(str(place[0]))
        return _section(field.annotation, place[1:]) if field else None
    if get_origin(kind) in (dict, tuple):
        place = place[1:]
    found = (_section(inner, place) for inner in get_args(kind))
    return next((model for model in found if model), None)
