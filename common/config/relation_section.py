"""How the copies of members pull on each other: the section `relation`, and which of its keys go together."""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

from pydantic import Field, model_validator

from common.config.values import Section, Text

T = TypeVar("T")

READS: dict[str, tuple[str, ...]] = {
    "none": (),
    "start": ("strength",),
    "mean": ("strength",),
    "graph": ("strength", "links"),
    "graph_l1": ("strength", "links", "penalty"),
    "precision": ("strength", "links", "diagonal"),
    "clusters": ("strength", "clusters"),
    "attention": ("strength", "temperature"),
    "similarity": ("threshold", "share"),
    "partial": ("share",),
    "agreement": ("margin", "decay", "patience"),
}
"""Which keys each relation reads; all others keep their defaults."""


class LinkSection(Section):
    """How strongly two members are linked; `- [a, b, 1.0]` in short."""

    one: Text
    other: Text
    weight: float

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, body: object) -> object:
        if isinstance(body, list) and len(body) == 3:
            return {"one": body[0], "other": body[1], "weight": float(body[2]) if isinstance(body[2], int) else body[2]}
        return body


Holders = Annotated[tuple[Text, ...], Field(strict=False, min_length=1)]


class RelationSection(Section):
    """Who is pulled to whom and how strongly; `docs/methods.md` says what each relation does.

    Members are named as their scopes are: by client id, or by their tasks joined with +.
    """

    name: Literal[
        "none",
        "start",
        "mean",
        "graph",
        "graph_l1",
        "precision",
        "clusters",
        "attention",
        "similarity",
        "partial",
        "agreement",
    ] = "none"
    strength: Annotated[float, Field(ge=0, le=1e6)] = 0.1
    links: Annotated[tuple[LinkSection, ...], Field(strict=False)] = ()
    penalty: Annotated[float, Field(gt=0, le=1e6)] = 1.0
    diagonal: float = 1.0
    clusters: dict[Text, Holders] = Field(default={})
    temperature: Annotated[float, Field(gt=0)] = 1.0
    threshold: Annotated[float, Field(ge=0, le=1)] = 0.5
    share: Annotated[float, Field(ge=0, le=1)] = 1.0
    margin: Annotated[float, Field(ge=0)] = 2.5
    decay: Annotated[float, Field(ge=0, lt=1)] = 0.5
    patience: Annotated[int, Field(ge=1)] = 2

    def problems(self) -> list[str]:
        """What contradicts what, one line each."""
        found = []
        for key in type(self).model_fields:
            readers = [name for name, keys in READS.items() if key in keys]
            if readers and self.name not in readers and key in self.model_fields_set:
                default = type(self).model_fields[key].get_default(call_default_factory=True)
                if getattr(self, key) != default:
                    text = f"only {', '.join(readers)} read it; write that as relation.name, or leave the key out"
                    found.append(f"relation.{key}: {text}")
        for index, link in enumerate(self.links):
            if link.one == link.other:
                found.append(f"relation.links.{index}: '{link.one}' is linked to itself; name two members")
            elif self.name in ("graph", "graph_l1") and link.weight < 0:
                found.append(
                    f"relation.links.{index}: weight {link.weight:g} is below 0; only precision knows opposites"
                )
        pairs = [frozenset((link.one, link.other)) for link in self.links]
        found += [f"relation.links: {' and '.join(sorted(p))} are linked twice; keep one" for p in _repeated(pairs)]
        named = [holder for group in self.clusters.values() for holder in group]
        found += [f"relation.clusters: '{holder}' is in two; keep one" for holder in _repeated(named)]
        if self.name == "clusters" and not self.clusters:
            found.append("relation.clusters: needed by relation clusters; write e.g. {north: [a, b], south: [c, d]}")
        return found


def _repeated(values: list[T]) -> list[T]:
    return [value for i, value in enumerate(values) if value in values[:i]]
