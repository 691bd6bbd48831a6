"""From the configuration to how updates become new versions: one value that says it all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from common.config.schema import Config
from common.conflict import Settlement, conflict_rule
from server.aggregation.shares import Shares, by_examples, shares_of


@dataclass(frozen=True)
class Method:
    """The parts of a method; the default is federated averaging.

    `shares` and `task_weights` (1 where a task is missing) weigh tasks that have sums of their own, and `settlement`
    lets them settle their conflicts. `rate` scales the step.
    """

    shares: Shares = by_examples
    task_weights: Mapping[str, float] = field(default_factory=dict)
    settlement: Settlement | None = None
    rate: float = 1.0


def method_of(config: Config) -> Method:
    """The method of a configuration."""
    section = config.aggregation
    settlement = None
    if section.conflict != "none":
        rule = conflict_rule(section.conflict, section.cagrad_c)
        settlement = Settlement(rule, section.only_conflicts, section.rescale)
    return Method(
        shares=shares_of(config) if section.by_task else by_examples,
        task_weights={name: task.weight for name, task in config.tasks.items()},
        settlement=settlement,
        rate=config.federation.server_learning_rate,
    )
