"""Which parameter lives in which scope.

Scopes are named as in `common.parameters.scope`; a plan has templates in place of scopes of groups and members.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType

from common.errors import ConfigError
from common.parameters.patterns import NamePattern
from common.parameters.schema import ElementType, ParameterSchema
from common.parameters.scope import (
    OWN,
    OWN_BLOCK,
    OWN_HEAD,
    PRIVATE,
    SHARED,
    TASK_HEAD,
    group_template,
    target_problem,
    written_out,
)

_LAYER = re.compile(r"(encoder(?:(?:\.\w+)*?\.layers?|\.h))\.(\d+)\..+")
_ABOVE = ("pooler.*", "final_norm.*", "ln_f.*", "norm.*")
"""What encoders have above their layers: those of GPT-2 and Llama call their last norm ln_f and norm."""
_BESIDE = ("net.*",)
"""What a module of a person's own has beside the layers that it names; rules about layers come first."""
_BELOW = ("embeddings*", "wte.*", "wpe.*", "embed_tokens.*")
_EMBEDDINGS = tuple(f"encoder.{part.rstrip('*')}" for part in _BELOW)
_PART = re.compile(r"encoder\.parts\.(\w+)\..+")
_COUNTED = ("{top}", "{bottom}")
_PLACES = (*_COUNTED, "{layer}")
_NTH_LAYER = re.compile(r"\{layer:(-?\d+)\}")


NORM_STATISTICS = ("running_mean", "running_var")
"""What batch normalisation calls the statistics of rows that it gathers in training; they have no gradients."""

EMBEDDINGS, TOP, HEADS = "embeddings", "top", "heads"


def block_of(name: str) -> str:
    """The part of the model that a parameter belongs to: `embeddings`, `layer_<i>`, `top` (pooler, last norm), `heads`.

    Layers that are one and the same, as ALBERT's, are part of `top`. Where rows have parts, the encoder of each is a
    block by itself: `part_<name>`.
    """
    if part := _PART.fullmatch(name):
        return part_block(part[1])
    layer = _LAYER.fullmatch(name)
    if layer is not None:
        return f"layer_{layer[2]}"
    if name.startswith("heads."):
        return HEADS
    return EMBEDDINGS if is_embedding(name) else TOP


def is_embedding(name: str) -> bool:
    """Whether a parameter belongs to what a text encoder has below its layers: words, positions."""
    return name.startswith(_EMBEDDINGS)


def part_block(part: str) -> str:
    """The block of the encoder of one part of rows."""
    return f"part_{part}"


def is_layer(block: str) -> bool:
    """Whether a block is one of the encoder's layers."""
    return block.startswith("layer_")


def layer_number(block: str) -> int:
    """The number of a block `layer_<i>`."""
    return int(block.removeprefix("layer_"))


def heights_of(schemas: Mapping[str, ParameterSchema]) -> dict[str, float]:
    """How high in the model the highest block of each scope lies, among these: 0 is the lowest, 1 the top."""
    highest = {scope: max(_level(block_of(e.name)) for e in schema.entries) for scope, schema in schemas.items()}
    levels = sorted(set(highest.values()))
    return {scope: levels.index(level) / max(len(levels) - 1, 1) for scope, level in highest.items()}


def _level(block: str) -> tuple[int, int]:
    """Embeddings, and encoders of parts of rows, are below the layers; the top and the heads above."""
    if is_layer(block):
        return 1, layer_number(block)
    return {TOP: (2, 0), HEADS: (3, 0)}.get(block, (0, 0))


@dataclass(frozen=True)
class ScopeRule:
    """Parameters whose name matches `match` live in `scope`.

    `match` is a name in which `*` stands for any text and `{task}` for one task's name, which `scope` may repeat:
    `heads.{task}.*` -> `task/{task}`. `{layer}` stands for each of the encoder's layers, `{layer:0}` for the first and
    `{layer:-1}` for the last, `{top}` and `{bottom}` for the last and first few: `{top}.*`; see
    `SharingPlan.resolved`. In a scope, `{block}` stands for the part of the model that a parameter belongs to
    (`block_of`): `* -> shared/{block}` gives each layer a scope of its own.
    """

    match: str
    scope: str

    @property
    def counts_layers(self) -> bool:
        """Whether it depends on the number of private layers."""
        return any(place in self.match for place in _COUNTED)

    @cached_property
    def pattern(self) -> NamePattern:
        """`match` as what tells names that it speaks of."""
        return NamePattern.of(self.match)

    def problem(self) -> str | None:
        """What is wrong with the rule, in one line, or None."""
        if problem := target_problem(self.scope):
            return problem
        if "{task}" in self.scope and "{task}" not in self.match:
            return f"scope '{self.scope}' needs {{task}} in match '{self.match}'"
        if self.match.count("{task}") > 1:
            return f"match '{self.match}' names {{task}} twice"
        return None

    def scope_of(self, name: str) -> str | None:
        """The scope of the parameter `name`, or None where the rule does not speak of it."""
        task = self.pattern.match(name)
        return None if task is None else written_out(self.scope, task, block_of(name))


def _rules(parts: Sequence[str], scope: str) -> tuple[ScopeRule, ...]:
    return tuple(ScopeRule(f"encoder.{part}", scope) for part in parts)


PLANS: dict[str, tuple[ScopeRule, ...]] = {
    "hard": (ScopeRule("heads.{task}.*", TASK_HEAD), ScopeRule("*", SHARED)),
    "full": (ScopeRule("*", SHARED),),
    "private_heads": (ScopeRule("heads.{task}.*", PRIVATE), ScopeRule("*", SHARED)),
    # Arivazhagan et al. 2019; the pooler (or last norm) and the heads lie above the top layers.
    "fedper": (
        ScopeRule("heads.{task}.*", PRIVATE),
        *_rules(_ABOVE, PRIVATE),
        ScopeRule("{top}.*", PRIVATE),
        ScopeRule("{layer}.*", SHARED),
        *_rules(_BELOW, SHARED),
        *_rules(_BESIDE, PRIVATE),
    ),
    # Liang et al. 2020 (LG-FedAvg): local representations below, what reads them is shared.
    "lg": (
        *_rules(_BELOW, PRIVATE),
        ScopeRule("{bottom}.*", PRIVATE),
        ScopeRule("{layer}.*", SHARED),
        *_rules((*_ABOVE, *_BESIDE), SHARED),
        ScopeRule("heads.{task}.*", TASK_HEAD),
    ),
    "local": (ScopeRule("heads.{task}.*", PRIVATE), ScopeRule("*", PRIVATE)),
    # Every member has a copy of its own, which the coordinator sees and relations act on (Evgeniou and Pontil 2004).
    "soft": (ScopeRule("heads.{task}.*", OWN_HEAD), ScopeRule("*", OWN)),
    # The same block by block, the heads apart: a relation decides which members' blocks are one.
    "adaptive": (ScopeRule("heads.{task}.*", TASK_HEAD), ScopeRule("*", OWN_BLOCK)),
}
"""Named plans: what `sharing.plan` may say, besides `groups` and `rules`."""


def groups_plan(levels: int) -> tuple[ScopeRule, ...]:
    """A hierarchy: each level of groups has one of the top layers, the lowest the last one with what lies above it."""
    layers = [ScopeRule(f"{{layer:{level - levels - 1}}}.*", group_template(level)) for level in range(1, levels + 1)]
    above = _rules(_ABOVE, group_template(levels))
    beside = _rules(_BESIDE, group_template(levels))
    return (
        ScopeRule("heads.{task}.*", TASK_HEAD),
        *above,
        *layers,
        ScopeRule("{layer}.*", SHARED),
        *beside,
        ScopeRule("*", SHARED),
    )


@dataclass(frozen=True)
class SharingPlan:
    """Ordered rules; the first that matches a parameter decides its scope.

    `private_layers` is how many layers `{top}` and `{bottom}` stand for, 0 or more.
    """

    rules: tuple[ScopeRule, ...]
    private_layers: int = 1

    def resolved(self, names: Iterable[str]) -> SharingPlan:
        """The plan with `{layer}`, `{top}` and `{bottom}` written out for a model with these parameter names.

        Raises:
            ConfigError: it speaks of layers, and the encoder has none of its own, or too few.
        """
        if not any(_place_in(rule.match) for rule in self.rules):
            return self
        layers, count = _layers(names), self.private_layers
        if count > len(layers):
            raise ConfigError(f"sharing.private_layers: {count}, but the encoder has {len(layers)} layers; lower it")
        for rule in self.rules:
            nth = _NTH_LAYER.search(rule.match)
            if nth is not None and not -len(layers) <= int(nth[1]) < len(layers):
                raise ConfigError(
                    f"sharing: '{nth[0]}' is asked for, but the encoder has {len(layers)} layers; use fewer levels of "
                    "groups, or other rules"
                )
        meant = {"{top}": layers[len(layers) - count :], "{bottom}": layers[:count], "{layer}": layers}
        return SharingPlan(tuple(written for rule in self.rules for written in _written_out(rule, meant)))

    def scope_of(self, name: str) -> str:
        """The one scope of a parameter.

        Raises:
            ConfigError: no rule matches the name.
        """
        for rule in self.rules:
            scope = rule.scope_of(name)
            if scope is not None:
                return scope
        raise ConfigError(
            f"sharing: no rule of the plan matches parameter '{name}'; use plan rules and add one for it, "
            "for instance '*': shared"
        )

    def schemas(
        self, shapes: Mapping[str, tuple[int, ...]], types: Mapping[str, ElementType] = MappingProxyType({})
    ) -> dict[str, ParameterSchema]:
        """Partition all parameters of a model into scopes; each keeps the mapping's order inside.

        Parameters are float32, except as `types` says; those of one scope have one type.

        Raises:
            ConfigError: see `scope_of` and `resolved`, or a scope would have parameters of two types.
        """
        plan = self.resolved(shapes)
        scopes: dict[str, dict[str, tuple[int, ...]]] = {}
        for name, shape in shapes.items():
            scopes.setdefault(plan.scope_of(name), {})[name] = shape
        return {
            scope: ParameterSchema.of(members, _type_of(scope, members, types))
            for scope, members in sorted(scopes.items())
        }


def _type_of(scope: str, names: Iterable[str], types: Mapping[str, ElementType]) -> ElementType:
    """The one element type of a scope's parameters."""
    found = sorted({types.get(name, ElementType.FLOAT32) for name in names})
    if len(found) > 1:
        raise ConfigError(
            f"sharing: scope '{scope}' would hold {' and '.join(found)} parameters; use a plan that keeps heads apart, "
            "such as hard"
        )
    return found[0]


def _layers(names: Iterable[str]) -> list[str]:
    """Paths of the encoder's layers, such as `encoder.encoder.layer.0`, from the bottom up.

    The encoder is built from its configuration, so it has as many as that says; ALBERT has one set of weights for all.
    """
    found = [match for name in names if is_layer(block_of(name)) and (match := _LAYER.fullmatch(name))]
    lists = sorted({match[1] for match in found})
    numbers = sorted({int(match[2]) for match in found})
    if len(lists) != 1 or numbers != list(range(len(numbers))):
        raise ConfigError(
            "sharing: this plan needs an encoder with layers of its own in one list, such as BERT, RoBERTa or "
            "DistilBERT, or a module that names them in its attribute `layers`; this one has none (ALBERT's layers are "
            "one and the same); use another plan or encoder"
        )
    return [f"{lists[0]}.{number}" for number in numbers]


def _written_out(rule: ScopeRule, meant: Mapping[str, Sequence[str]]) -> list[ScopeRule]:
    place = _place_in(rule.match)
    if place is None:
        return [rule]
    nth = _NTH_LAYER.fullmatch(place)
    paths = [meant["{layer}"][int(nth[1])]] if nth is not None else meant[place]
    return [ScopeRule(rule.match.replace(place, path), rule.scope) for path in paths]


def _place_in(match: str) -> str | None:
    nth = _NTH_LAYER.search(match)
    return nth[0] if nth is not None else next((place for place in _PLACES if place in match), None)
