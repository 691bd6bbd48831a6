"""From the configuration to how updates become new versions: one value that says it all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from common.config.schema import Config
from common.methods.conflict import ConflictResolver
from common.methods.relation import Couple
from common.parameters.scope import Scope, ScopeKind
from server.aggregation.cohort import CohortRule, cohort_rule_of
from server.aggregation.optimizers import SGD, ServerOptimizer, optimizer_of
from server.aggregation.shares import Shares, by_examples, shares_of


@dataclass(frozen=True)
class StreamingRule:
    """A rule that needs sums only, whatever the number of clients; the default is the weighted mean.

    `shares` and `task_weights` (1 where a task is missing) weigh tasks that have sums of their own, and `resolver`
    resolves their conflicts. Tasks in `auxiliary` count as far as they help the others.
    """

    shares: Shares = by_examples
    task_weights: Mapping[str, float] = field(default_factory=dict)
    resolver: ConflictResolver | None = None
    auxiliary: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Method:
    """The parts of a method; the default is federated averaging.

    The type of `rule` says what it needs: sums, or every update of the round. Updates longer than `norm_bound` are
    shortened first. The optimizer's move is scaled by `rate`; scopes of single tasks may have others of both. A rule
    that needs every update keeps them in `folder`, or in a temporary one. The `relation` acts on members' copies
    afterwards. What everybody shares is pulled to the run's first values with strength `start_pull`.
    """

    rule: StreamingRule | CohortRule = field(default_factory=StreamingRule)
    norm_bound: float | None = None
    optimizer: ServerOptimizer = SGD
    rate: float = 1.0
    folder: Path | None = None
    task_optimizer: ServerOptimizer | None = None
    task_rate: float | None = None
    relation: Couple | None = None
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
        rule=cohort_rule_of(config) or _streaming_rule_of(config),
        norm_bound=section.norm_bound,
        optimizer=optimizer_of(section, section.optimizer),
        rate=config.federation.server_learning_rate,
        task_optimizer=optimizer_of(section, section.task_optimizer) if section.task_optimizer else None,
        task_rate=section.task_learning_rate,
        relation=config.relation,
        start_pull=config.training.anchor.strength if config.training.anchor else 0.0,
    )


def _streaming_rule_of(config: Config) -> StreamingRule:
    section = config.aggregation
    resolver = None
    if section.conflict is not None:
        resolver = ConflictResolver(section.conflict, section.only_conflicts)
    return StreamingRule(
        shares=shares_of(config) if section.by_task else by_examples,
        task_weights={name: task.weight for name, task in config.tasks.items()},
        resolver=resolver,
        auxiliary=frozenset(name for name, task in config.tasks.items() if task.auxiliary),
    )
