"""From the configuration to how updates become new versions: one value that says it all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from common.config.schema import Config
from common.config.values import NormMedian
from common.methods.averages import VersionAverage
from common.methods.conflict import ConflictResolver
from common.methods.procedures import SDCA
from common.methods.relation import Couple
from common.methods.robust import RobustRule
from common.methods.server_optimizers import PlainStep, ServerOptimizer
from common.methods.step_scale import MEAN, StepScale
from common.methods.task_weights import Evidence, ExampleWeights, Float64
from common.parameters.scope import Scope, ScopeKind
from server.aggregation.noise import NoiseSettings
from server.core.dual_facts import DualSettings


@dataclass(frozen=True)
class WeightedMean:
    """What needs sums only, whatever the number of clients; the default is the mean weighted by examples."""

    weights: Callable[[Evidence], Float64] = field(default_factory=ExampleWeights)
    """Of tasks that have sums of their own."""
    factors: Mapping[str, float] = field(default_factory=dict)
    """What weights of tasks are multiplied by; 1 where a task is missing."""
    resolver: ConflictResolver | None = None
    auxiliary: frozenset[str] = frozenset()
    """Tasks that count as far as they help the others."""


@dataclass(frozen=True)
class AggregationStrategy:
    """How updates become new versions; the default is federated averaging."""

    mean: WeightedMean | RobustRule = field(default_factory=WeightedMean)
    """Its type says what is needed: sums, or every update of the round."""
    scale: StepScale = MEAN
    """How long the step is of what tasks share."""
    norm_bound: float | None = None
    """Longer updates are shortened to it first."""
    norm_medians: float | None = None
    """The same as so many times the median length of the updates of the last published round."""
    optimizer: ServerOptimizer = field(default_factory=PlainStep)
    rate: float = 1.0
    """What the optimizer's move is multiplied by."""
    average: VersionAverage | None = None
    """Of versions, in place of the last one; training goes on from each version as it is."""
    folder: Path | None = None
    """Where a robust rule keeps updates; None: in a temporary folder."""
    task_optimizer: ServerOptimizer | None = None
    """The optimizer of scopes of single tasks, if it is another one."""
    task_rate: float | None = None
    relation: Couple | None = None
    """Acts on members' copies afterwards."""
    num_rounds: int = 1
    """Of the run, for what changes with the rounds."""
    anchor_strength: float = 0.0
    """How strongly what everybody shares is pulled to the run's first values in training."""

    has_controls: bool = False
    """Whether clients exchange control variates."""
    dual: DualSettings | None = None
    """Heads are made of their supports."""
    seed: int = 0
    """Of the run; candidates that there are from the start are drawn from it."""
    noise: NoiseSettings | None = None
    """Of the coordinator, on the sums of every round."""

    def bound_after(self, median: float | None) -> float | None:
        """The longest update beside a round with this median length; None: any length."""
        if self.norm_medians is None:
            return self.norm_bound
        return None if median is None else self.norm_medians * median

    def mover_of(self, scope: str) -> tuple[ServerOptimizer, float]:
        """The optimizer and the rate of a scope; what is no part of the model just adds its step."""
        if Scope.parse(scope).is_derived:
            return PlainStep(), 1.0
        if Scope.parse(scope).kind is not ScopeKind.TASK:
            return self.optimizer, self.rate
        return self.task_optimizer or self.optimizer, self.rate if self.task_rate is None else self.task_rate


def strategy_of(config: Config) -> AggregationStrategy:
    """The strategy of a configuration."""
    section, bound = config.aggregation, config.aggregation.norm_bound
    return AggregationStrategy(
        mean=section.robust or _weighted_mean_of(config),
        scale=section.scale,
        norm_bound=bound if isinstance(bound, float) else None,
        norm_medians=bound.median if isinstance(bound, NormMedian) else None,
        optimizer=section.optimizer,
        average=section.average,
        rate=config.federation.server_learning_rate,
        task_optimizer=section.task_optimizer,
        task_rate=section.task_learning_rate,
        relation=None if config.training.procedure.is_dual else config.relation,
        num_rounds=config.training.num_rounds,
        anchor_strength=config.training.anchor.strength if config.training.anchor else 0.0,
        has_controls=config.training.procedure.has_controls,
        dual=dual_of(config),
        seed=config.run.seed,
    )


def dual_of(config: Config) -> DualSettings | None:
    """What a run must know that solves a dual; None for all others."""
    solver = config.training.procedure
    if not isinstance(solver, SDCA):
        return None
    stretch = 2.0 if max(task.outputs for task in config.definitions()) == 2 else 1.0
    return DualSettings(solver, config.relation, config.training.stop_at_gap or None, stretch)


def _weighted_mean_of(config: Config) -> WeightedMean:
    section = config.aggregation
    return WeightedMean(
        weights=section.weights,
        factors={name: task.weight for name, task in config.tasks.items()},
        resolver=ConflictResolver(section.conflict, section.only_conflicts) if section.conflict else None,
        auxiliary=frozenset(name for name, task in config.tasks.items() if task.auxiliary),
    )
