"""From the configuration to how updates become new versions: one value that says it all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from common.config.schema import Config
from common.conflict import Settlement, conflict_rule
from common.parameters.scope import Scope, ScopeKind
from server.aggregation.optimizers import SGD, ServerOptimizer, optimizer_of
from server.aggregation.robust import RobustRule, robust_rule_of
from server.aggregation.shares import Shares, by_examples, shares_of
from server.relations.table import relation_of
from server.relations.ties import Relation


@dataclass(frozen=True)
class StreamingRule:
    """A rule that needs sums only, whatever the number of clients; the default is the weighted mean.

    `shares` and `task_weights` (1 where a task is missing) weigh tasks that have sums of their own, and `settlement`
    lets them settle their conflicts. Tasks in `auxiliary` count as far as they help the others.
    """

    shares: Shares = by_examples
    task_weights: Mapping[str, float] = field(default_factory=dict)
    settlement: Settlement | None = None
    auxiliary: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Method:
    """The parts of a method; the default is federated averaging.

    The type of `rule` says what it needs: sums, or every update of the round. Updates longer than `norm_bound` are
    shortened first. The optimizer's move is scaled by `rate`; scopes of single tasks may have others of both. A rule
    that needs every update keeps them in `folder`, or in a temporary one. The `relation` acts on members' copies
    afterwards. What everybody shares is pulled to the run's first values with strength `start_pull`.
    """

    rule: StreamingRule | RobustRule = field(default_factory=StreamingRule)
    norm_bound: float | None = None
    optimizer: ServerOptimizer = SGD
    rate: float = 1.0
    folder: Path | None = None
    task_optimizer: ServerOptimizer | None = None
    task_rate: float | None = None
    relation: Relation | None = None
    start_pull: float = 0.0

    def mover_of(self, scope: str) -> tuple[ServerOptimizer, float]:
        """The optimizer and the rate of a scope."""
        if Scope.parse(scope).kind is not ScopeKind.TASK:
            return self.optimizer, self.rate
        return self.task_optimizer or self.optimizer, self.rate if self.task_rate is None else self.task_rate


def method_of(config: Config) -> Method:
    """The method of a configuration."""
    section = config.aggregation
    return Method(
        rule=robust_rule_of(config) or _streaming_rule_of(config),
        norm_bound=section.norm_bound,
        optimizer=optimizer_of(section, section.optimizer),
        rate=config.federation.server_learning_rate,
        task_optimizer=optimizer_of(section, section.task_optimizer) if section.task_optimizer else None,
        task_rate=section.task_learning_rate,
        relation=relation_of(config),
        start_pull=config.relation.strength if config.relation.name == "start" else 0.0,
    )


def _streaming_rule_of(config: Config) -> StreamingRule:
    section = config.aggregation
    settlement = None
    if section.conflict != "none":
        rule = conflict_rule(section.conflict, section.cagrad_c)
        settlement = Settlement(rule, section.only_conflicts, section.rescale)
    return StreamingRule(
        shares=shares_of(config) if section.by_task else by_examples,
        task_weights={name: task.weight for name, task in config.tasks.items()},
        settlement=settlement,
        auxiliary=frozenset(name for name, task in config.tasks.items() if task.auxiliary),
    )
