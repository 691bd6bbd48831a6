"""The names of scopes, put together and taken apart in this file alone.

| name | parameters of |
| --- | --- |
| `shared`, `shared/<block>` | everybody's model |
| `task/<name>` | the clients of a task |
| `private`, `private/<task>` | one client; they start from the coordinator's values and never leave the client |
| `group/<path>` | the clients of a group of tasks; the path is from the top down |
| `member/<id>`, `member/<id>/<block>`, `member/<id>/task/<name>` | a member: one client, or all with the same tasks |
| `anchor/<scope>` | what another scope is pulled to |
| `dual/<other>/<scope>` | what a relation remembers of a member's scope and another member |
| `control/<scope>` | the sum of all clients' control variates of another scope (SCAFFOLD) |
| `support/<scope>` | the sum of all clients' rows, each times its dual variable, that a head is made of (MOCHA) |
| `candidate/<name>/<scope>` | values that a member's scope might have, which clients are asked to score |
| `sum/<circle>` | nothing by itself: the cells of a circle of members, as they lie in an answer |

A plan has *templates* in place of groups and members: `group/{2}` (a level), `member/{member}`. Every group of tasks,
and every member, has a scope of its own for it, with the template's layout and first values. A template is a scope of
the published model too; scopes of all other kinds are their own templates.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property, lru_cache
from typing import TypeVar

V = TypeVar("V")

SHARED = "shared"
LAYERED = "shared/{block}"
PRIVATE = "private"
TASK_HEAD = "task/{task}"
OWN = "member/{member}"
OWN_HEAD = "member/{member}/task/{task}"
OWN_BLOCK = "member/{member}/{block}"
_MEMBER = "{member}"
_LEVEL = re.compile(r"\{(\d+)\}")
_RULE = re.compile(
    r"shared(?:/\{block\})?|private|task/(?:\{task\}|[A-Za-z0-9_-]+)|group/\{[1-9]\}"
    r"|member/\{member\}(?:/\{block\}|/task/\{task\})?"
)
_NAMED_BY_RULES = "shared, shared/{block}, private, task/{task}, task/<name>, group/{1} (to {9})"


class ScopeKind(StrEnum):
    """The first word of a scope's name."""

    SHARED = "shared"
    TASK = "task"
    PRIVATE = "private"
    GROUP = "group"
    MEMBER = "member"
    ANCHOR = "anchor"
    DUAL = "dual"
    CONTROL = "control"
    SUPPORT = "support"
    CANDIDATE = "candidate"
    SUM = "sum"


_SUMS = frozenset({ScopeKind.CONTROL, ScopeKind.SUPPORT})
"""Kinds of which clients hand in changes that are added up as they are."""
_BESIDE = frozenset({ScopeKind.ANCHOR, ScopeKind.CANDIDATE})
"""Kinds of which clients receive values beside those of a scope, or in their place."""
_OWNED = frozenset(
    {ScopeKind.TASK, ScopeKind.GROUP, ScopeKind.MEMBER, ScopeKind.DUAL, ScopeKind.CANDIDATE, ScopeKind.SUM}
)
"""Kinds that have no name without an owner."""


@dataclass(frozen=True)
class Scope:
    """A scope's name, taken apart; `str` puts it together again."""

    kind: ScopeKind
    owner: str = ""
    """The task, the group's path or the member; of a dual the other member; the name of a candidate; empty where
    everybody has the scope."""
    part: str = ""
    """A block of the model, or `task/<name>`, of scopes that do not hold all of their owner's parameters."""
    of: Scope | None = None
    """What an anchor, a dual, a control, a support or a candidate belongs to."""

    @staticmethod
    @lru_cache(maxsize=1 << 16)
    def parse(name: str) -> Scope:
        """The scope of this name.

        Raises:
            ValueError: it is the name of no scope.
        """
        word, _, rest = name.partition("/")
        owner, _, tail = rest.partition("/")
        match word:
            case ScopeKind.SHARED:
                found = Scope(ScopeKind.SHARED, part=rest)
            case ScopeKind.TASK | ScopeKind.PRIVATE | ScopeKind.GROUP | ScopeKind.SUM:
                found = Scope(ScopeKind(word), rest)
            case ScopeKind.MEMBER:
                found = Scope(ScopeKind.MEMBER, owner, tail)
            case ScopeKind.ANCHOR | ScopeKind.CONTROL | ScopeKind.SUPPORT:
                found = Scope(ScopeKind(word), of=Scope.parse(rest))
            case ScopeKind.DUAL | ScopeKind.CANDIDATE:
                found = Scope(ScopeKind(word), owner, of=Scope.parse(tail))
            case _:
                raise ValueError(f"'{name}' is the name of no scope")
        if str(found) != name or (found.kind in _OWNED and not found.owner):
            raise ValueError(f"'{name}' is the name of no scope")
        return found

    def __str__(self) -> str:
        """The name."""
        of = str(self.of) if self.of is not None else ""
        return "/".join(filter(None, (self.kind.value, self.owner, self.part, of)))

    @property
    def is_shared(self) -> bool:
        """Whether everybody holds it, and it is not private."""
        return self.kind is ScopeKind.SHARED

    @property
    def is_member(self) -> bool:
        """Whether it is a member's copy."""
        return self.kind is ScopeKind.MEMBER

    @property
    def is_averaged(self) -> bool:
        """Whether tasks may share it, so that its steps are averaged over them."""
        return self.kind in (ScopeKind.SHARED, ScopeKind.GROUP)

    @property
    def is_derived(self) -> bool:
        """Whether it is no part of the model but belongs to a scope that is: an anchor, a dual or a sum."""
        return self.of is not None

    @property
    def is_template(self) -> bool:
        """Whether groups or members have scopes of their own in its place."""
        return self.owner == _MEMBER or self.level is not None

    @property
    def level(self) -> int | None:
        """The level of a template for groups, from 1 at the top; None for other scopes."""
        found = _LEVEL.fullmatch(self.owner) if self.kind is ScopeKind.GROUP else None
        return int(found[1]) if found is not None else None

    @cached_property
    def task(self) -> str:
        """The one task that it is for, or nothing."""
        if self.of is not None:
            return self.of.task
        if self.kind in (ScopeKind.TASK, ScopeKind.PRIVATE):
            return self.owner
        word, _, task = self.part.partition("/")
        return task if word == ScopeKind.TASK.value else ""

    @cached_property
    def template(self) -> str:
        """The name of its template; of a scope that belongs to another one, that of the other."""
        if self.of is not None:
            return self.of.template
        if self.kind is ScopeKind.GROUP and self.level is None:
            return group_template(self.owner.count("/") + 1)
        return str(self.filled(_MEMBER)) if self.is_member else str(self)

    @property
    def base(self) -> str:
        """The name of the scope that an anchor, a candidate or a sum belongs to, or its own."""
        return str(self.of if self.kind in _BESIDE | _SUMS else self)

    @cached_property
    def place(self) -> str:
        """The name with the template of what it belongs to: a client's values of one place take turns there."""
        return self.template if self.of is None else str(replace(self, of=Scope.parse(self.template)))

    @property
    def anchor(self) -> str:
        """The name of what it is pulled to."""
        return str(Scope(ScopeKind.ANCHOR, of=self))

    @property
    def control(self) -> str:
        """The name of the sum of its clients' control variates."""
        return str(Scope(ScopeKind.CONTROL, of=self))

    @property
    def support(self) -> str:
        """The name of the sum of rows, times their dual variables, that it is made of."""
        return str(Scope(ScopeKind.SUPPORT, of=self))

    def dual(self, other: str) -> str:
        """The name of a member's dual towards another member."""
        return str(Scope(ScopeKind.DUAL, other, of=self))

    def candidate(self, name: str) -> str:
        """The name of a candidate for it."""
        return str(Scope(ScopeKind.CANDIDATE, name, of=self))

    @property
    def ends(self) -> tuple[str, str] | None:
        """The member and the other member of a dual, or None for other scopes."""
        return (self.of.owner, self.owner) if self.kind is ScopeKind.DUAL and self.of is not None else None

    @property
    def file_name(self) -> str:
        """The name as a part of a file's name."""
        return str(self).replace("/", ".")

    def filled(self, owner: str) -> Scope:
        """The scope of a group or a member in place of this template."""
        return replace(self, owner=owner)


class ByTemplate(dict[str, V]):
    """Values by the name of a template, and of single scopes: a scope without an entry has its template's.

    Candidates for a template stand for those of its scopes, where there are such entries.
    """

    def __missing__(self, name: str) -> V:
        scope = Scope.parse(name)
        for other in (scope.place, scope.template):
            if other != name and other in self:
                return self[other]
        raise KeyError(name)


def is_control(name: str) -> bool:
    """Whether a scope is a sum of control variates."""
    return Scope.parse(name).kind is ScopeKind.CONTROL


def is_candidate(name: str) -> bool:
    """Whether a scope has values that clients are asked to score."""
    return Scope.parse(name).kind is ScopeKind.CANDIDATE


def is_sum(name: str) -> bool:
    """Whether a scope is a sum over clients, which begins at 0: of control variates, or a support."""
    return Scope.parse(name).kind in _SUMS


def is_private(name: str) -> bool:
    """Whether a scope's parameters must never leave the client."""
    return Scope.parse(name).kind is ScopeKind.PRIVATE


def held_scopes(names: Iterable[str], tasks: Collection[str]) -> tuple[str, ...]:
    """Those among scopes, or templates, that a model copy for `tasks` has: all but those of other tasks, sorted.

    Of groups and members, `names` has the copy's own alone, or templates.
    """
    return tuple(name for name in sorted(names) if not (task := Scope.parse(name).task) or task in tasks)


def copies_of(template: str, names: Iterable[str]) -> list[str]:
    """The scopes among `names` that members have in place of a template, sorted."""
    scopes = map(Scope.parse, {*names})
    return sorted(str(s) for s in scopes if s.is_member and not s.is_template and s.template == template)


def isolated_scopes(names: Iterable[str], tasks: Collection[str], isolated: Collection[str]) -> frozenset[str]:
    """Those among a client's scopes that nothing trains when it works on `tasks`, of which `isolated` do not count.

    Controls are not among them: a client takes its variate of such a scope out of the sum.
    """
    nobody = bool(isolated) and set(tasks) <= set(isolated)  # an order without names is about all tasks
    return frozenset(name for name in names if (nobody or Scope.parse(name).task in isolated) and not is_control(name))


def group_template(level: int) -> str:
    """The template of the groups on a level, 1 at the top."""
    return f"group/{{{level}}}"


def sum_scope(circle: str) -> str:
    """What the cells of a circle are called together."""
    return str(Scope(ScopeKind.SUM, circle))


def moment_name(moment: str, scope: str) -> str:
    """What a server optimizer's moment of a scope is called among all moments."""
    return f"{moment}/{scope}"


def split_moment(name: str) -> tuple[str, str]:
    """The moment and the scope in such a name."""
    moment, _, scope = name.partition("/")
    return moment, scope


def target_of(name: str) -> Scope | None:
    """The scope that a rule of a sharing plan names, with its placeholders; None where it cannot be named there."""
    return Scope.parse(name) if _RULE.fullmatch(name) else None


def target_problem(name: str) -> str | None:
    """Why a rule of a sharing plan cannot name a scope so, or None."""
    if _RULE.fullmatch(name):
        return None
    return f"scope '{name}' is not one of {_NAMED_BY_RULES}, {OWN}, {OWN_BLOCK}, {OWN_HEAD}"


def written_out(target: str, task: str, block: str) -> str:
    """The scope of one parameter by a rule: the task that its name holds, and its block, stand for placeholders."""
    if target == PRIVATE and task:
        return str(Scope(ScopeKind.PRIVATE, task))
    return target.replace("{task}", task).replace("{block}", block)
