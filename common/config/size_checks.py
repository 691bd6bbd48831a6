"""Checks of sizes: what all clients are told fits into one message, and so does what each of them answers."""

from __future__ import annotations

from common.config.schema import Config
from common.tasks import TaskDefinition
from common.wire.limits import (
    DEFINITION_BYTES,
    MAX_LABELS,
    MAX_RULES,
    MAX_SUMS,
    MAX_TASKS,
    RULES_BYTES,
    definition_bytes,
)


def tasks(config: Config) -> list[str]:
    """How many tasks and labels there may be, and how long their names."""
    found = []
    if len(config.tasks) > MAX_TASKS:
        found.append(f"tasks: {len(config.tasks)} are more than {MAX_TASKS}; make several runs of them")
    tasks = [section.definition(name) for name, section in config.tasks.items() if not section.problems(name)]
    labels = sum(len(task.labels) for task in tasks)
    if labels > MAX_LABELS:
        found.append(f"tasks: {labels} labels of all tasks are more than {MAX_LABELS}; merge rare ones")
    sums = sum(row.size for task in tasks for row in task.metric_sums)
    if sums > MAX_SUMS:
        what = f"metrics of all tasks need {sums} numbers of each client, more than {MAX_SUMS}"
        found.append(f"tasks: {what}; leave out auc and pr_auc of some, or make several runs")
    size = sum(definition_bytes(task.name, task.labels, _weights(task)) for task in tasks)
    if size > DEFINITION_BYTES:
        found.append(
            f"tasks: the names of all tasks and labels take {size} bytes, more than {DEFINITION_BYTES}; shorten them"
        )
    return found


def _weights(task: TaskDefinition) -> int:
    return len(task.class_weights) if isinstance(task.class_weights, tuple) else 0


def rules(config: Config) -> list[str]:
    """How many rules of one's own a sharing plan may have."""
    given = config.sharing.rules
    size = sum(len(rule.match.encode()) + len(rule.scope.encode()) + 16 for rule in given)
    if len(given) <= MAX_RULES and size <= RULES_BYTES:
        return []
    what = f"{len(given)} rules of {size} bytes are more than {MAX_RULES} rules or {RULES_BYTES} bytes"
    return [f"sharing.rules: {what}; use wider patterns"]
