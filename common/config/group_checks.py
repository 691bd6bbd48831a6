"""Checks of groups, members and the relation between them."""

from __future__ import annotations

from collections import Counter

from common.config.schema import Config
from common.methods.relation import Relation
from common.parameters.membership import leaves_of
from common.parameters.scope import ScopeKind, target_of


def groups(config: Config) -> list[str]:
    """Groups of tasks that are there, each once, and somebody who reads them."""
    sharing = config.sharing
    wanted = sharing.plan == "groups" or any(_has(ScopeKind.GROUP, rule.scope) for rule in sharing.rules)
    if wanted and not sharing.groups:
        return ["sharing.groups: needed; write e.g. {pairs: [qqp, stsb], sentences: [sst2]}"]
    if sharing.groups and not wanted:
        return [f"sharing.groups: not read by plan {sharing.plan}; write sharing.plan: groups, or remove it"]
    leaves = leaves_of(sharing.groups)
    known = config.tasks
    found = [
        f"sharing.groups: '{task}' is not a task of this configuration; add it to tasks"
        for task, _ in leaves
        if task not in known
    ]
    twice = [task for task, times in Counter(task for task, _ in leaves).items() if times > 1]
    found += [f"sharing.groups: '{task}' is in two groups; keep one" for task in twice]
    alone = set(known) - {task for task, _ in leaves}
    names = {name for _, path in leaves for name in path[:1]}
    found += [
        f"sharing.groups: '{name}' is a group and a task outside of it; name it differently"
        for name in sorted(alone & names)
    ]
    return found


def _has(kind: ScopeKind, name: str) -> bool:
    target = target_of(name)
    return target is not None and target.kind is kind


def relation(config: Config) -> list[str]:
    """A relation between members needs copies of their own, and is the only thing that combines them."""
    chosen, sharing = config.relation, config.sharing
    found = []
    members = any(_has(ScopeKind.MEMBER, rule.scope) for rule in config.sharing_plan().rules)
    if chosen is not None and not members and not config.training.procedure.is_dual:
        remedy = "write sharing.plan: soft or adaptive, or rules with member/{member}"
        found.append(
            f"relation.name: {chosen.name} acts on copies of members' own, and plan {sharing.plan} has none; {remedy}"
        )
    if members and config.aggregation.robust is not None:
        text = "needs many updates of one scope, and members have scopes of their own; write none"
        found.append(f"aggregation.robust: {config.aggregation.robust.name} {text}")
    if members and chosen is not None and sharing.members == "tasks":
        found += _unknown_members(config, chosen)
    if sharing.members != "tasks" and not members:
        remedy = "write sharing.plan: soft or adaptive, or remove it"
        found.append(f"sharing.members: not read by plan {sharing.plan}; {remedy}")
    return found


def _unknown_members(config: Config, chosen: Relation) -> list[str]:
    """Names in links and clusters that no set of tasks has."""
    found = []
    for where, member in chosen.named_members():
        tasks = member.split("+")
        if tasks != sorted(set(tasks)) or not set(tasks) <= set(config.tasks):
            text = "is no set of tasks of this configuration, in alphabetical order, such as a or a+b"
            remedy = "correct it, or write sharing.members: clients to name clients"
            found.append(f"relation.{where}: '{member}' {text}; {remedy}")
    return found
