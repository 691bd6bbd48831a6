"""How updates become one step: the section `aggregation`, and which of its keys go together."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from common.config.choices import Chosen
from common.config.values import MaxExamples, Section
from common.methods.conflict import CONFLICT_RULES, ConflictRule

TASK_SHARES = ("task_balanced", "temperature", "dynamic", "attention", "famo")
"""Weights that ask for sums by task."""

TEMPERED = ("temperature", "dynamic", "attention")

ADAPTIVE = ("adam", "yogi")

OptimizerName = Literal["sgd", "momentum", "adam", "yogi"]


class AggregationSection(Section):
    """Weights, rules and the server's optimizer, with what they read; `docs/methods.md` says what each one does."""

    weights: Literal["examples", "uniform", "task_balanced", "temperature", "dynamic", "attention", "famo"] = "examples"
    temperature: Annotated[float, Field(ge=1e-3, le=1e6)] = 2.0
    famo_rate: Annotated[float, Field(gt=0, le=1e6)] = 0.1
    famo_decay: Annotated[float, Field(ge=0, le=1e6)] = 1e-3
    max_examples: MaxExamples | None = None
    conflict: Annotated[ConflictRule | None, Chosen(CONFLICT_RULES, none=True)] = None
    only_conflicts: bool = True
    robust: Literal["none", "median", "trimmed_mean", "multi_krum"] = "none"
    faulty_share: Annotated[float, Field(ge=0, lt=0.5)] = 0.2
    norm_bound: Annotated[float, Field(gt=0)] | None = None
    optimizer: OptimizerName = "sgd"
    task_optimizer: OptimizerName | None = None
    task_learning_rate: Annotated[float, Field(gt=0)] | None = None
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.99
    tau: Annotated[float, Field(gt=0)] = 1e-3

    @property
    def most_examples(self) -> int | None:
        """`max_examples` where it is a number of rows."""
        return self.max_examples if isinstance(self.max_examples, int) else None

    @property
    def most_medians(self) -> float | None:
        """`max_examples` where it is a multiple of the median."""
        return float(self.max_examples.removesuffix("x")) if isinstance(self.max_examples, str) else None

    @property
    def by_task(self) -> bool:
        """Whether the updates of a scope that tasks share are summed task by task."""
        return self.weights in TASK_SHARES or self.conflict is not None

    def problems(self) -> list[str]:
        """What contradicts what, one line each."""
        conflict = self.conflict is not None
        optimizers = {self.optimizer, self.task_optimizer or self.optimizer}
        adaptive = not optimizers.isdisjoint(ADAPTIVE)
        unread = (
            ("temperature", self.weights in TEMPERED, "weights: temperature, dynamic or attention"),
            ("famo_rate", self.weights == "famo", "weights: famo"),
            ("famo_decay", self.weights == "famo", "weights: famo"),
            ("max_examples", self.weights != "uniform", "weights that count rows, all but uniform,"),
            ("only_conflicts", conflict, "a conflict rule"),
            ("faulty_share", self.robust in ("trimmed_mean", "multi_krum"), "robust: trimmed_mean or multi_krum"),
            ("beta1", optimizers != {"sgd"}, "optimizer: momentum, adam or yogi"),
            ("beta2", adaptive, "optimizer: adam or yogi"),
            ("tau", adaptive, "optimizer: adam or yogi"),
        )
        found = [
            f"aggregation.{key}: only {reader} reads it; write that, or leave the key out"
            for key, read, reader in unread
            if not read and getattr(self, key) != type(self).model_fields[key].default
        ]
        if self.weights == "temperature" and self.temperature < 1:
            remedy = "large tasks would count more than their rows; write 1 or more"
            found.append(f"aggregation.temperature: {self.temperature:g} is below 1, {remedy}")
        if self.weights == "uniform" and conflict:
            remedy = "conflict rules weigh tasks; write weights: task_balanced"
            found.append(f"aggregation.weights: uniform counts clients, {remedy}")
        if self.robust != "none" and (self.weights != "uniform" or conflict):
            remedy = "write weights: uniform, and no conflict rule"
            found.append(f"aggregation.robust: {self.robust} counts every update once; {remedy}")
        return found
