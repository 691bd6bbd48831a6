"""Circles: who shares a scope, where that is neither everybody nor the clients of a task.

A *slot* is a place in a model copy that a scope fills, as a rule of the plan names it: `group/{2}`, `member/{holder}`.
Every group of tasks, and every member, has a scope of its own in it, such as `group/nlu/pairs` or `member/ward-3`.
All scopes of a slot have the slot's schema, and begin with its values. `anchor/<scope>` holds what a scope is pulled
to, `dual/<holder>/<scope>` what a relation remembers of a member and another holder, for the coordinator alone. Scopes
of all other kinds are their own slots.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from common.parameters.plan import member_scopes

V = TypeVar("V")

GROUP, MEMBER, ANCHOR, DUAL = "group/", "member/", "anchor/", "dual/"
HOLDER = "{holder}"
EVERYONE = "all"
"""Below the lowest group of a task: the same clients once more, in the slots of deeper levels."""

_LEVEL = re.compile(r"group/\{(\d+)\}")


def slot_of(scope: str) -> str:
    """The slot that a scope fills; of an anchor, that of the scope it is for."""
    scope = scope.removeprefix(ANCHOR)
    if scope.startswith(DUAL):
        scope = scope.split("/", 2)[2]
    if scope.startswith(GROUP) and not _LEVEL.fullmatch(scope):
        return f"{GROUP}{{{scope.count('/')}}}"
    if scope.startswith(MEMBER):
        _, _, *part = scope.split("/", 2)
        return "/".join(("member", HOLDER, *part))
    return scope


def is_template(slot: str) -> bool:
    """Whether a slot is filled by scopes of groups or members, not by a scope of its own name."""
    return slot.startswith((GROUP, MEMBER))


def task_of(scope: str) -> str:
    """The task whose head a scope is, of all its clients or of one member, or nothing."""
    _, _, task = f"/{scope}".partition("/task/")
    return task


def idle_scopes(scopes: Iterable[str], tasks: Collection[str], apart: Collection[str]) -> frozenset[str]:
    """Those among a client's scopes that nothing trains when it works on `tasks` and those in `apart` do not count."""
    nobody = bool(apart) and set(tasks) <= set(apart)  # an order without names is about all tasks
    return frozenset(scope for scope in scopes if nobody or task_of(scope) in apart)


def holder_of(scope: str) -> str:
    """The holder of a member's scope."""
    return scope.split("/", 2)[1]


def dual_of(scope: str, other: str) -> str:
    """The dual of a member's scope towards another holder."""
    return f"{DUAL}{other}/{scope}"


def ends_of_dual(scope: str) -> tuple[str, str] | None:
    """The member and the other holder of a dual, or None for other scopes."""
    if not scope.startswith(DUAL):
        return None
    _, other, of = scope.split("/", 2)
    return holder_of(of), other


class BySlot(dict[str, V]):
    """What is known of slots, and of single scopes where they differ: a scope without an entry has its slot's."""

    def __missing__(self, scope: str) -> V:
        slot = slot_of(scope)
        if slot == scope or slot not in self:
            raise KeyError(scope)
        return self[slot]


@dataclass(frozen=True)
class Circles:
    """Which scopes of a slot are whose.

    `paths` gives every task's groups from the top down, one per level. The holder of a member's scope is one client, or
    all clients with the same tasks.
    """

    paths: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    members: Literal["clients", "tasks"] = "clients"

    @property
    def levels(self) -> int:
        """How many levels of groups there are."""
        return max(map(len, self.paths.values()), default=1)

    def scope(self, slot: str, client_id: str, tasks: Sequence[str]) -> str:
        """A client's scope in a slot."""
        level = _LEVEL.fullmatch(slot)
        if level is not None:
            return GROUP + "/".join(self.paths[tasks[0]][: int(level[1])])
        return slot.replace(HOLDER, client_id if self.members == "clients" else "+".join(sorted(tasks)))

    def scopes(
        self, slots: Collection[str], client_id: str, tasks: Sequence[str], wanted: Sequence[str]
    ) -> tuple[str, ...]:
        """The scopes that a client with these tasks needs for the wanted ones, private ones included."""
        return tuple(sorted(self.scope(slot, client_id, tasks) for slot in member_scopes(slots, wanted)))

    def rules(
        self, rules: Sequence[tuple[str, str]], client_id: str, tasks: Sequence[str]
    ) -> tuple[tuple[str, str], ...]:
        """A plan's rules (match, scope) with this client's own scopes in place of slots."""
        return tuple((match, self.scope(scope, client_id, tasks)) for match, scope in rules)

    def problem(self, slots: Collection[str], tasks: Sequence[str]) -> str | None:
        """Why no one model copy can serve these tasks, or None: they lie in different groups of one level."""
        for slot in sorted(slots):
            scopes = {task: self.scope(slot, "", [task]) for task in tasks if _LEVEL.fullmatch(slot)}
            if len(set(scopes.values())) > 1:
                placed = ", ".join(f"{task} in {scope.removeprefix(GROUP)}" for task, scope in scopes.items())
                return f"its tasks lie in different groups of sharing.groups ({placed}); start one client per group"
        return None


def paths_of(groups: Mapping[str, object], tasks: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Every task's groups from the top down, all of one length; see `Circles`.

    `groups` maps names to lists of tasks or to further groups. A task that is in none of them is a group of its own.
    """
    found = dict(leaves_of(groups))
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
