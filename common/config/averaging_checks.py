"""Checks of how the updates of tasks are averaged."""

from __future__ import annotations

from common.config.schema import Config
from common.methods.step_scale import MEAN
from common.parameters.scope import target_of


def weights_of_tasks(config: Config) -> list[str]:
    """Weights of tasks that somebody reads."""
    if config.aggregation.weights.counts_examples:
        return []
    return [
        f"tasks.{name}.weight: is not read where aggregation.weights is uniform; leave it out, or choose other weights"
        for name, section in config.tasks.items()
        if section.weight != 1.0
    ]


def auxiliary_tasks(config: Config) -> list[str]:
    """Tasks that help others, and sums of theirs that say so."""
    names = [name for name, section in config.tasks.items() if section.auxiliary]
    if not names:
        return []
    if len(names) == len(config.tasks):
        return [f"tasks.{names[0]}.auxiliary: there is no other task to help; leave one that is not auxiliary"]
    if not config.aggregation.weights.counts_examples:
        remedy = "tasks must have sums of their own; write aggregation.weights: examples, and no robust rule"
        return [f"tasks.{names[0]}.auxiliary: {remedy}"]
    return []


def mean_over(config: Config) -> list[str]:
    """Means over those who read a parameter, where nobody else moves it."""
    if not config.aggregation.among_readers:
        return []
    if config.sharing.plan == "local":
        return ["aggregation.mean_over: plan local has no means; write all"]
    if config.training.anchor is not None:
        return ["aggregation.mean_over: training.anchor pulls what a task does not read too; write all, or no anchor"]
    return []


def step_scale(config: Config) -> list[str]:
    """Whether any step is averaged whose length could be chosen."""
    scale, relation = config.aggregation.scale, config.relation
    if scale == MEAN:
        return []
    if relation is not None and not relation.averages:
        return [f"aggregation.scale: {scale}, but relation {relation.name} averages no steps; write scale: mean"]
    targets = (target_of(rule.scope) for rule in config.sharing_plan().rules)
    if relation is None and not any(target is not None and target.is_averaged for target in targets):
        return [f"aggregation.scale: {scale}, but plan {config.sharing.plan} averages over no tasks; write scale: mean"]
    return []


def average(config: Config) -> list[str]:
    """An average of versions where there are some, and a last round that is known before it is held."""
    if config.aggregation.average is None:
        return []
    place = f"aggregation.average: {config.aggregation.average.name}"
    if config.sharing.plan == "local":
        return [f"{place}, but plan local publishes no model; write none"]
    if config.training.patience:
        return [f"{place} is published after the last round, which training.patience would skip; write one of the two"]
    return []
