"""How updates become one step: the section `aggregation`, and which of its keys go together."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from common.config.choices import Chosen
from common.config.values import MaxExamples, NormBound, Scale, Section
from common.methods.averages import AVERAGES, VersionAverage
from common.methods.conflict import CONFLICT_RULES, ConflictRule
from common.methods.robust import RobustRule
from common.methods.robust_rules import ROBUST_RULES
from common.methods.server_optimizers import SERVER_OPTIMIZERS, PlainStep, ServerOptimizer
from common.methods.step_scale import MEAN, NORM
from common.methods.task_weights import TASK_WEIGHTS, ExampleWeights, TaskWeights


class AggregationSection(Section):
    """Weights, rules and the server's optimizer, with what they read; `docs/methods.md` says what each one does."""

    weights: Annotated[TaskWeights, Chosen(TASK_WEIGHTS)] = ExampleWeights()
    """what counts how much in the mean"""
    max_examples: MaxExamples | None = None
    """of a client and task count at most so many rows: a number, or 2x (twice the median of the round's clients); null:
    as many as the client says"""
    conflict: Annotated[ConflictRule | None, Chosen(CONFLICT_RULES, none=True)] = None
    """how conflicts of tasks in what they share are resolved"""
    only_conflicts: bool = True
    """without a conflict between any two tasks: the mean, whatever the rule says"""
    robust: Annotated[RobustRule | None, Chosen(ROBUST_RULES, none=True)] = None
    """against faulty clients; counts every update once, so weights: uniform"""
    mean_over: Literal["all", "readers"] = "all"
    """whose updates a parameter's mean is over: all | readers (clients with a task whose outputs depend on it)"""
    scale: Scale = MEAN
    """length of the step of what tasks share: mean (of their steps) | norm (as long as these are on the mean, at most
    sqrt(tasks) times the mean step) | a number (times the mean step)"""
    norm_bound: NormBound | None = None
    """longest update; longer ones are shortened: a length, or {median: 3} (three times the median of the last published
    round's updates; the first round has no bound). null: any length"""
    optimizer: Annotated[ServerOptimizer, Chosen(SERVER_OPTIMIZERS)] = PlainStep()
    """of the coordinator; its rate is federation.server_learning_rate"""
    average: Annotated[VersionAverage | None, Chosen(AVERAGES, none=True)] = None
    """of versions: it is published after the last round, in place of the plain one that training went on from"""
    task_optimizer: Annotated[ServerOptimizer, Chosen(SERVER_OPTIMIZERS)] | None = None
    """of scopes of single tasks, such as heads; null: as optimizer"""
    task_learning_rate: Annotated[float, Field(gt=0)] | None = None
    """its rate; null: federation.server_learning_rate"""

    @property
    def most_examples(self) -> int | None:
        """`max_examples` where it is a number of rows."""
        return self.max_examples if isinstance(self.max_examples, int) else None

    @property
    def most_medians(self) -> float | None:
        """`max_examples` where it is a multiple of the median."""
        return float(self.max_examples.removesuffix("x")) if isinstance(self.max_examples, str) else None

    @property
    def among_readers(self) -> bool:
        """Whether a mean is over the updates of those alone whose tasks read a parameter."""
        return self.mean_over == "readers"

    @property
    def by_task(self) -> bool:
        """Whether the updates of a scope that tasks share are summed task by task."""
        return self.weights.by_task or self.conflict is not None or self.scale == NORM

    def problems(self) -> list[str]:
        """What contradicts what, one line each."""
        found, weights = [], self.weights
        if self.max_examples is not None and not weights.counts_examples:
            found.append(f"aggregation.max_examples: not read by weights {weights.name}; choose others, or remove it")
        if self.conflict is None and not self.only_conflicts:
            found.append("aggregation.only_conflicts: only a conflict rule reads it; write one, or remove it")
        if self.conflict is not None and not weights.counts_examples:
            remedy = "conflict rules weigh tasks; write weights: task_balanced"
            found.append(f"aggregation.weights: {weights.name} counts clients, {remedy}")
        if self.robust is not None and self.robust.named:
            if self.by_task:
                remedy = "write weights: examples or uniform, and no conflict rule"
                found.append(f"aggregation.robust: {self.robust.name} sees clients, not sums of tasks; {remedy}")
        elif self.robust is not None and (weights.counts_examples or self.conflict is not None):
            remedy = "write weights: uniform, and no conflict rule"
            found.append(f"aggregation.robust: {self.robust.name} counts every update once; {remedy}")
        if self.robust is not None and self.among_readers:
            text = f"{self.robust.name} sees every update of a scope; write mean_over: all"
            found.append(f"aggregation.mean_over: {text}")
        return found + self._scale_problems()

    def _scale_problems(self) -> list[str]:
        """What leaves the length of a step no meaning, or gives it another one."""
        if self.scale == MEAN:
            return []
        found, place = [], f"aggregation.scale: {self.scale}"
        if self.robust is not None:
            found.append(f"{place}, but {self.robust.name} makes no mean; write scale: mean")
        if self.optimizer.is_adaptive:
            text = f"the moves of {self.optimizer.name} are as long whatever the step; write scale: mean"
            found.append(f"{place}, but {text}, or optimizer: sgd or momentum")
        if self.scale == NORM and self.conflict is not None:
            text = f"{self.conflict.name} gives the step a length of its own; write scale: mean or a number"
            found.append(f"{place}, but {text}")
        if self.scale == NORM and not self.weights.counts_examples:
            found.append(
                f"aggregation.weights: {self.weights.name} counts clients, and scale: norm weighs tasks; "
                "write weights: examples or task_balanced"
            )
        return found
