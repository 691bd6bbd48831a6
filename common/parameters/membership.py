"""Which groups tasks belong to, who is a member, and so whose scopes stand in place of templates."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from common.parameters.scope import Scope, held_scopes

EVERYONE = "all"
"""Below the lowest group of a task: the same clients once more, on deeper levels."""


@dataclass(frozen=True)
class Membership:
    """Whose scopes stand in place of templates."""

    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Every task's groups from the top down, one per level."""
    members: Literal["clients", "tasks"] = "clients"
    """Who has a member's copy: one client, or all clients with the same tasks."""

    @property
    def levels(self) -> int:
        """How many levels of groups there are."""
        return max(map(len, self.groups.values()), default=1)

    def scope(self, template: str, client_id: str, tasks: Sequence[str]) -> str:
        """A client's scope in place of a template, or of a scope that is none."""
        scope = Scope.parse(template)
        if not scope.is_template:
            return template
        if scope.level is not None:
            return str(scope.filled("/".join(self.groups[tasks[0]][: scope.level])))
        return str(scope.filled(client_id if self.members == "clients" else "+".join(sorted(tasks))))

    def scopes(
        self, templates: Collection[str], client_id: str, tasks: Sequence[str], wanted: Sequence[str]
    ) -> tuple[str, ...]:
        """The scopes that a client with these tasks needs for the wanted ones, private ones included."""
        return tuple(sorted(self.scope(name, client_id, tasks) for name in held_scopes(templates, wanted)))

    def rules(
        self, rules: Sequence[tuple[str, str]], client_id: str, tasks: Sequence[str]
    ) -> tuple[tuple[str, str], ...]:
        """A plan's rules (match, scope) with this client's own scopes in place of templates."""
        return tuple((match, self.scope(scope, client_id, tasks)) for match, scope in rules)

    def problem(self, templates: Collection[str], tasks: Sequence[str]) -> str | None:
        """Why no one model copy can serve these tasks, or None: they lie in different groups of one level."""
        levels = (scope for name in sorted(templates) if (scope := Scope.parse(name)).level is not None)
        for template in levels:
            paths = {task: Scope.parse(self.scope(str(template), "", [task])).owner for task in tasks}
            if len(set(paths.values())) > 1:
                placed = ", ".join(f"{task} in {path}" for task, path in paths.items())
                return f"its tasks lie in different groups of sharing.groups ({placed}); start one client per group"
        return None


def groups_of(tree: Mapping[str, object], tasks: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Every task's groups from the top down, all of one length; see `Membership`.

    `tree` maps names to lists of tasks or to further groups. A task that is in none of them is a group of its own.
    """
    found = dict(leaves_of(tree))
    paths = {task: found.get(task, (task,)) for task in tasks}
    depth = max(map(len, paths.values()), default=1)
    return {task: (*path, *[EVERYONE] * (depth - len(path))) for task, path in paths.items()}


def leaves_of(groups: Mapping[str, object], above: tuple[str, ...] = ()) -> list[tuple[str, tuple[str, ...]]]:
    """The tasks of a tree of groups, each with the names of its groups from the top down."""
    leaves = []
    for name, members in groups.items():
        if isinstance(members, Mapping):
            leaves += leaves_of(members, (*above, name))
        elif isinstance(members, Sequence):
            leaves += [(str(task), (*above, name)) for task in members]
    return leaves
