"""What goes with noise and what does not: every contradiction at once, each with its remedy."""

from __future__ import annotations

from collections.abc import Mapping

from common.config.privacy_section import PrivacySection
from common.config.schema import Config
from common.config.task_section import TaskSection
from common.errors import ConfigError
from common.methods.balance import PlainBalance
from common.parameters.scope import PRIVATE, target_of
from common.privacy.accounting import DECIMALS, MOST_NOISE, Mechanism, noise_multiplier_for, releases_within
from common.privacy.clipping import LONGEST, SHORTEST
from common.privacy.noise import require_package

LEAST_NOISE = 10.0**-DECIMALS
"""What is found for a budget is never less."""
MOST_SCALE = 1e6
COUNTED = ("accuracy", "f1", "matthews")
"""Metrics that counts give."""


def problems(config: Config) -> list[str]:
    """What contradicts the noise that is asked for, or is not read without it."""
    section = config.privacy
    if section.noise == "none":
        return _unread(section, ("noise",), "is not read without noise; write privacy.noise: coordinator or rows")
    found = []
    if section.epsilon is None and section.noise_multiplier is None:
        found.append("privacy.epsilon: missing; write a budget such as 8, or privacy.noise_multiplier")
    if section.of_rows:
        read = ("noise", "clip", "epsilon", "noise_multiplier", "delta", "scores", "scores_noise")
        found += _unread(section, read, "is read with privacy.noise: coordinator alone")
        return found + _scores_noise(section) + _found(_not_with_rows(config), section.noise)
    found += _out_of_range(section) + _scores_noise(section)
    return found + (_too_little(config) if not found else []) + _found(_not_with_coordinator(config), section.noise)


def simulation(config: Config) -> list[str]:
    """What contradicts noise once it is known how many clients there are."""
    section, clients = config.privacy, config.simulation.client_count
    is_known = section.of_coordinator and config.data.source != "given"
    if not is_known or section.delta < 1 / clients:
        return []
    return [
        f"privacy.delta: {section.delta:g} is not below one in {clients} simulated clients; write less, such as "
        f"{0.01 / clients:.0e}"
    ]


def package(config: Config) -> list[str]:
    """What a process lacks that makes noise."""
    try:
        if config.privacy.noise != "none":
            require_package()
    except ConfigError as error:
        return [str(error)]
    return []


def package_of_server(config: Config) -> list[str]:
    """What the coordinator's process lacks to make noise."""
    return package(config) if config.privacy.of_coordinator else []


def package_of_client(config: Config) -> list[str]:
    """What a client's process lacks to make noise."""
    return package(config) if config.privacy.of_rows else []


def _unread(section: PrivacySection, read: tuple[str, ...], why: str) -> list[str]:
    others = (name for name in type(section).model_fields if name not in read)
    return [
        f"privacy.{key}: {why}, or remove it"
        for key in others
        if getattr(section, key) != getattr(type(section)(), key)
    ]


def _scores_noise(section: PrivacySection) -> list[str]:
    """What contradicts noise on counts of validation rows."""
    if not section.noises_scores:
        default = type(section)().scores_noise
        unread = "privacy.scores_noise: is read with privacy.scores: noisy alone; write that, or remove it"
        return [unread] if section.scores_noise != default else []
    if not section.of_rows:
        return ["privacy.scores: noisy is for privacy.noise: rows; write exact or none"]
    epsilon, once = section.epsilon, Mechanism(section.scores_noise)
    if epsilon is None or releases_within(epsilon, section.delta, once):
        return []
    least = noise_multiplier_for(epsilon, section.delta, 1)
    text = f"one scoring with noise of {section.scores_noise:g} rows costs more than epsilon {epsilon:g}"
    return [f"privacy.scores_noise: {text}; write {least} or more"]


def _found(contradictions: Mapping[str, bool], noise: str) -> list[str]:
    return [f"{line} (privacy.noise: {noise})" for line, holds in contradictions.items() if holds]


def _out_of_range(section: PrivacySection) -> list[str]:
    """Numbers with which noise could not be computed any more."""
    ranges = {
        "clip": (SHORTEST, LONGEST),
        "head_scale": (1 / MOST_SCALE, MOST_SCALE),
        "noise_multiplier": (LEAST_NOISE, MOST_NOISE),
    }
    values = {key: getattr(section, key) for key in ranges}
    return [
        f"privacy.{key}: {values[key]:g} is not between {least:g} and {most:g}; write a number between, such as 1"
        for key, (least, most) in ranges.items()
        if values[key] is not None and not least <= values[key] <= most
    ]


def _too_little(config: Config) -> list[str]:
    """A budget that does not pay for one round, so that the run would wait for clients that may be charged."""
    section, fraction = config.privacy, config.federation.client_fraction
    if section.epsilon is None:
        return []
    chance = fraction if section.sampling == "poisson" else 1.0
    z, remedy = section.noise_multiplier, "write more epsilon, or fewer training.num_rounds"
    try:
        least = noise_multiplier_for(section.epsilon, section.delta, 1 if z else config.training.num_rounds, chance)
    except ValueError:
        return [f"privacy.epsilon: {section.epsilon:g} is too little for any noise; {remedy}"]
    if z is None or releases_within(section.epsilon, section.delta, Mechanism(z, chance)):
        return []
    text = f"with noise_multiplier {z:g} one round costs more than epsilon {section.epsilon:g}"
    return [f"privacy.epsilon: {text}; write noise_multiplier: {least} or more, or leave it out"]


def _not_with_coordinator(config: Config) -> dict[str, bool]:
    """Noise on sums covers what is made of these sums alone, with fixed denominators and one clip per update."""
    aggregation, federation, training, section = config.aggregation, config.federation, config.training, config.privacy
    rules = [rule.scope for rule in config.sharing_plan().rules]
    copies = any(target.is_member for scope in rules if (target := target_of(scope)))
    protected = max(federation.min_clients, section.min_clients)
    return {
        f"privacy.delta: {section.delta:g} is not below one in {protected} clients; write less, such as "
        f"{0.01 / protected:.0e}": section.delta >= 1 / protected,
        "privacy.sampling: poisson needs a chance below 1; write federation.client_fraction: 0.5, or sampling: all": (
            section.sampling == "poisson" and federation.client_fraction == 1.0
        ),
        "federation.min_updates: coins decide how many are asked; write 1, or privacy.sampling: all": (
            section.sampling == "poisson" and federation.min_updates > 1
        ),
        "federation.tasks_per_order: clients would change what they train in, and sums have fixed denominators; "
        "remove it": federation.tasks_per_order is not None,
        f"sharing.plan: {config.sharing.plan} has copies of single clients, whose sums would hide nobody; write "
        "private_heads or hard": copies,
        f"sharing.plan: {config.sharing.plan} publishes nothing, so that there is nothing to protect; leave privacy "
        "out": all(scope == PRIVATE for scope in rules),
        "sharing.norm_statistics: noise makes variances negative; write private": (
            config.sharing.norm_statistics == "shared"
        ),
        "relation: ties copies of single clients, and there must be none; remove it": (
            config.relation is not None and not copies  # plans with copies bring one
        ),
        f"aggregation.weights: {aggregation.weights.name} counts rows or losses, which are private; write uniform or "
        "task_balanced": aggregation.weights.reads_counts or aggregation.weights.reads_losses,
        "aggregation.max_examples: every client counts once; remove it": (
            aggregation.max_examples is not None and aggregation.weights.counts_examples  # others refuse it anyway
        ),
        "aggregation.robust: looks at single updates; remove it": aggregation.robust is not None,
        "aggregation.norm_bound: privacy.clip is the longest update; remove it": aggregation.norm_bound is not None,
        "aggregation.mean_over: means of some need denominators of their own; write all": aggregation.among_readers,
        "guard: decides by raw scores; remove it": config.guard.enabled,
        "model.keep.best: chooses by raw scores what is used; write none": config.model.keep.best != "none",
        "training.patience: ends the run by raw scores; write 0": training.patience > 0,
        f"training.procedure: {training.procedure.name} hands in more than a change of the model; write plain, fedprox "
        "or fedrep": training.procedure.has_controls or training.procedure.is_dual,
        "data.statistics: the columns' sums of all clients would be published without noise; write site": (
            config.data.statistics == "federation"
        ),
    } | {
        f"tasks.{name}.class_weights: balanced ones are made of counts of labels; write numbers, or none": (
            task.class_weights == "balanced"
        )
        for name, task in config.tasks.items()
    }


def _goes_by_counts(name: str, task: TaskSection) -> bool:
    """Whether noised counts give the metric that a task goes by."""
    kind = task.kind_of(name)
    return kind is not None and kind.one_class and (task.metrics or COUNTED)[0] in COUNTED


def _not_with_rows(config: Config) -> dict[str, bool]:
    """Noise on clipped gradients of single rows covers what is made of these gradients alone."""
    training, client, relation = config.training, config.client, config.relation
    auxiliary = {task.auxiliary for task in config.tasks.values()}
    noisy = config.privacy.noises_scores
    by_counts = all(_goes_by_counts(name, task) for name, task in config.tasks.items())
    return {
        f"training.procedure: {training.procedure.name} does not follow gradients of single rows; write plain, fedprox "
        "or fedrep": not training.procedure.parts()[0].sums_gradients,
        f"training.balance: {training.balance.name} weighs tasks by gradients or losses of rows; write plain": (
            not isinstance(training.balance, PlainBalance)
        ),
        "tasks.*.auxiliary: auxiliary tasks are weighed by gradients of rows; remove it": len(auxiliary) > 1,
        f"aggregation.weights: {config.aggregation.weights.name} is made of losses, which are not hidden; write "
        "uniform or examples": config.aggregation.weights.reads_losses,
        "client.precision: gradients are clipped in float32; write float32": client.precision != "float32",
        f"data.statistics: {config.data.statistics} scales each row by all others; standardise rows beforehand, and "
        "write none": config.data.statistics != "none",
        "guard: decides by exact scores; remove it": config.guard.enabled,
        "simulation.executor: ray keeps no ledgers; write thread": config.simulation.executor == "ray",
        "model.keep.best: chooses by scores, which stay with clients; write none": (
            config.privacy.keeps_scores and config.model.keep.best != "none"
        ),
        "training.patience: goes by scores, which stay with clients; write 0": (
            config.privacy.keeps_scores and training.patience > 0
        ),
        "model.keep.best: with privacy.scores: noisy it needs classifications whose first metric is one of "
        f"{', '.join(COUNTED)}; write none": noisy and config.model.keep.best != "none" and not by_counts,
        "training.patience: with privacy.scores: noisy it needs classifications whose first metric is one of "
        f"{', '.join(COUNTED)}; write 0": noisy and training.patience > 0 and not by_counts,
        "privacy.scores: noisy ones are of single clients, and secure_aggregation tells sums alone; write none": (
            noisy and config.secure_aggregation.enabled
        ),
        "relation: clients would compare losses of rows, which are not hidden; write another one": (
            relation is not None and relation.probes is not None
        ),
    } | {
        line: holds
        for name, task in config.tasks.items()
        for kind in [task.kind_of(name)]
        for line, holds in {
            f"tasks.{name}.class_weights: balanced ones are made of counts of labels; write numbers, or none": (
                task.class_weights == "balanced"
            ),
            f"tasks.{name}.type: the loss of {kind} is not one of single rows; leave the task out": (
                kind is not None and (kind.per_token or kind.per_pixel)
            ),
        }.items()
    }
