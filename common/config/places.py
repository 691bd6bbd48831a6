"""What a schema knows at a place, which is a path of keys such as `tasks`, `sst2`, `weight`.

The schema is the configuration's, unless another file has one of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from common.config.choices import Chosen
from common.config.schema import Config
from common.methods.choice import parameters_of


def keys_at(place: Sequence[int | str], root: type[BaseModel] = Config) -> list[str]:
    """The keys of the section at a place; none where there is no section."""
    found = _at(root, (), place)
    if isinstance(found, Chosen):
        return list(dict.fromkeys(["name", *(key for row in found.rows.values() for key in parameters_of(row))]))
    return list(found.model_fields) if found else []


def field_at(place: Sequence[int | str], root: type[BaseModel] = Config) -> FieldInfo | None:
    """The field at a place, if the schema has one there."""
    found, key = _at(root, (), place[:-1]), str(place[-1])
    model = found.model_of(key) if isinstance(found, Chosen) else found
    return model.model_fields.get(key) if model else None


def is_choice(place: Sequence[int | str], root: type[BaseModel] = Config) -> bool:
    """Whether a row of a table is chosen at a place."""
    return isinstance(_at(root, (), place), Chosen)


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


def _at(kind: Any, notes: Iterable[Any], place: Sequence[int | str]) -> type[BaseModel] | Chosen[Any] | None:
    """The section or choice at a place below `kind`, which is one or a container of them, annotated with `notes`."""
    chosen = next((note for note in notes if isinstance(note, Chosen)), None)
    if chosen is not None:
        return chosen if not place else None
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        if not place:
            return kind
        field = kind.model_fields.get(str(place[0]))
        return _at(field.annotation, field.metadata, place[1:]) if field else None
    if get_origin(kind) in (dict, tuple):
        place = place[1:]
    found = (_at(inner, getattr(inner, "__metadata__", ()), place) for inner in get_args(kind))
    return next((model for model in found if model), None)
