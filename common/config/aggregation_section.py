"""How updates become one step: the section `aggregation`, and which of its keys go together."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from common.config.values import Section

TASK_SHARES = ("task_balanced", "temperature", "dynamic")
"""Weights that ask for sums by task."""


ADAPTIVE = ("adam", "yogi")


class AggregationSection(Section):
    """Weights, rules and the server's optimizer, with what they read; `docs/methods.md` says what each one does."""

    weights: Literal["examples", "uniform", "task_balanced", "temperature", "dynamic"] = "examples"
    temperature: Annotated[float, Field(ge=1)] = 2.0
    conflict: Literal["none", "pcgrad", "mgda", "cagrad", "nash", "imtl_g", "upgrad"] = "none"
    cagrad_c: Annotated[float, Field(gt=0)] = 0.4
    only_conflicts: bool = True
    rescale: bool = True
    robust: Literal["none", "median", "trimmed_mean", "multi_krum"] = "none"
    faulty_share: Annotated[float, Field(ge=0, lt=0.5)] = 0.2
    norm_bound: Annotated[float, Field(gt=0)] | None = None
    optimizer: Literal["sgd", "momentum", "adam", "yogi"] = "sgd"
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.99
    tau: Annotated[float, Field(gt=0)] = 1e-3

    @property
    def by_task(self) -> bool:
        """Whether the updates of a scope that tasks share are summed task by task."""
        return self.weights in TASK_SHARES or self.conflict != "none"

    def problems(self) -> list[str]:
        """What contradicts what, one line each."""
        conflict = self.conflict != "none"
        unread = (
            ("temperature", self.weights in ("temperature", "dynamic"), "weights: temperature or dynamic"),
            ("cagrad_c", self.conflict == "cagrad", "conflict: cagrad"),
            ("only_conflicts", conflict, "a conflict rule"),
            ("rescale", conflict, "a conflict rule"),
            ("faulty_share", self.robust in ("trimmed_mean", "multi_krum"), "robust: trimmed_mean or multi_krum"),
            ("beta1", self.optimizer != "sgd", "optimizer: momentum, adam or yogi"),
            ("beta2", self.optimizer in ADAPTIVE, "optimizer: adam or yogi"),
            ("tau", self.optimizer in ADAPTIVE, "optimizer: adam or yogi"),
        )
        found = [
            f"aggregation.{key}: only {reader} reads it; write that, or leave the key out"
            for key, read, reader in unread
            if not read and getattr(self, key) != type(self).model_fields[key].default
        ]
        if self.weights == "uniform" and conflict:
            remedy = "conflict rules weigh tasks; write weights: task_balanced"
            found.append(f"aggregation.weights: uniform counts clients, {remedy}")
        if self.robust != "none" and (self.weights != "uniform" or conflict):
            remedy = "write weights: uniform, and no conflict rule"
            found.append(f"aggregation.robust: {self.robust} counts every update once; {remedy}")
        return found
