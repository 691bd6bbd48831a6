"""Which parameter lives in which scope.

A scope is named `shared`, `task/<t>`, `private` or `private/<t>`. Private scopes start from the coordinator's initial
values and never leave the client afterwards.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from common.errors import ConfigError
from common.parameters.schema import ParameterSchema

SHARED = "shared"
PRIVATE = "private"
_SCOPE = re.compile(r"shared|private|task/(?:\{task\}|[A-Za-z0-9_-]+)")


def is_private(scope: str) -> bool:
    """Whether a scope's parameters must never leave the client."""
    return scope == PRIVATE or scope.startswith(f"{PRIVATE}/")


@dataclass(frozen=True)
class ScopeRule:
    """Parameters whose name matches `match` live in `scope`.

    `match` is a name in which `*` stands for any text and `{task}` for one task's name, which `scope` may repeat:
    `heads.{task}.*` -> `task/{task}`.
    """

    match: str
    scope: str

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """`match` as a regular expression over whole parameter names."""
        escaped = re.escape(self.match).replace(r"\*", ".*").replace(r"\{task\}", "(?P<task>[^.]+)")
        return re.compile(escaped)

    def problem(self) -> str | None:
        """What is wrong with the rule, in one line, or None."""
        if not _SCOPE.fullmatch(self.scope):
            return f"scope '{self.scope}' is not one of shared, private, task/{{task}}, task/<name>"
        if "{task}" in self.scope and "{task}" not in self.match:
            return f"scope '{self.scope}' needs {{task}} in match '{self.match}'"
        if self.match.count("{task}") > 1:
            return f"match '{self.match}' names {{task}} twice"
        return None

    def scope_of(self, name: str) -> str | None:
        """The scope of the parameter `name`, or None where the rule does not speak of it."""
        found = self.pattern.fullmatch(name)
        if found is None:
            return None
        task = found.groupdict().get("task")
        if self.scope == PRIVATE and task:
            return f"{PRIVATE}/{task}"
        return self.scope.replace("{task}", task or "")


PLANS: dict[str, tuple[ScopeRule, ...]] = {
    "hard": (ScopeRule("heads.{task}.*", "task/{task}"), ScopeRule("*", SHARED)),
    "full": (ScopeRule("*", SHARED),),
    "private_heads": (ScopeRule("heads.{task}.*", PRIVATE), ScopeRule("*", SHARED)),
}
"""Named plans: what `sharing.plan` may say."""


@dataclass(frozen=True)
class SharingPlan:
    """Ordered rules; the first that matches a parameter decides its scope."""

    rules: tuple[ScopeRule, ...]

    def scope_of(self, name: str) -> str:
        """The one scope of a parameter.

        Raises:
            ConfigError: no rule matches the name.
        """
        for rule in self.rules:
            scope = rule.scope_of(name)
            if scope is not None:
                return scope
        raise ConfigError(f"sharing.rules: no rule matches parameter '{name}'; add one, for instance '*': shared")

    def schemas(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, ParameterSchema]:
        """Partition all parameters of a model into scopes; each keeps the mapping's order inside."""
        scopes: dict[str, dict[str, tuple[int, ...]]] = {}
        for name, shape in shapes.items():
            scopes.setdefault(self.scope_of(name), {})[name] = shape
        return {scope: ParameterSchema.of(members) for scope, members in sorted(scopes.items())}


def member_scopes(scopes: Collection[str], tasks: Sequence[str]) -> tuple[str, ...]:
    """The scopes, of those given, that a client with `tasks` holds; private ones included."""
    own = {SHARED, PRIVATE} | {f"{kind}/{task}" for task in tasks for kind in ("task", PRIVATE)}
    return tuple(scope for scope in sorted(scopes) if scope in own)


def travelling_scopes(scopes: Collection[str], tasks: Sequence[str]) -> tuple[str, ...]:
    """The scopes, of those given, that a client with `tasks` receives each round and returns deltas for."""
    return tuple(scope for scope in member_scopes(scopes, tasks) if not is_private(scope))
