"""Checks of runs that solve a dual: what their heads must be, and what has no meaning for them."""

from __future__ import annotations

from common.bodies import DENSE_FLOAT32
from common.config.aggregation_section import AggregationSection
from common.config.schema import Config, FederationSection
from common.methods.procedures import SDCA


def problems(config: Config) -> list[str]:
    """What contradicts `training.procedure: sdca`, or is read by it alone."""
    solver = config.training.procedure
    if not isinstance(solver, SDCA):
        unread = "training.stop_at_gap: only training.procedure: sdca reads it; write that, or remove it"
        return [unread] if config.training.stop_at_gap else []
    name = f"(training.procedure: {solver.name})"
    contradictions = {
        "sharing.plan: heads must be apart from the encoder, and travel; write hard or soft": (
            config.sharing.plan not in ("hard", "soft")
        ),
        "guard: compares with models that are trained in another way; remove it": config.guard.enabled,
        "blend: is of models that are trained in another way; remove it": config.blend.enabled,
        "training.finetune_epochs: there are no epochs; write 0": config.training.finetune_epochs > 0,
        "training.anchor: the penalty is given by strength and relation; write none": config.training.anchor
        is not None,
        "model.warm_start: weights and dual variables begin at 0 together; remove it": (
            config.model.warm_start is not None
        ),
        "federation.server_learning_rate: there are no steps; write 1.0": (
            config.federation.server_learning_rate != FederationSection().server_learning_rate
        ),
        "federation.update_encoding: supports travel as they are; write dense-float32": (
            config.federation.update_encoding != DENSE_FLOAT32
        ),
        "aggregation: supports are added up as they are; remove the section": config.aggregation
        != AggregationSection(),
        "relation: has no covariance to relate heads by; choose mocha, mean, graph, clusters or none": (
            config.relation is not None and config.relation.covariance(("a", "b"), None) is None
        ),
    }
    found = [f"{line} {name}" for line, wrong in contradictions.items() if wrong]
    return found + _heads(config, solver)


def work(config: Config) -> list[str]:
    """The share of work that a client does, whatever its file says of the procedure, which orders name."""
    least, most = config.client.least_work, config.client.work
    return [] if least is None or least <= most else ["client.least_work: is more than client.work; lower it"]


def _heads(config: Config, solver: SDCA) -> list[str]:
    """Heads of one size, of tasks that have linear problems with this loss."""
    found: list[str] = []
    sizes: dict[int, str] = {}
    for task in config.definitions():
        if not task.type.has_linear_problems:
            found.append(f"tasks.{task.name}.type: a {task.type} has no linear problem; leave the task out")
            continue
        sizes.setdefault(task.outputs, task.name)
        if task.type.has_units and solver.dual_loss().for_classes:
            text = f"{solver.loss} is for labels, and task {task.name} has numbers; write squared"
            found.append(f"training.procedure.loss: {text}")
    if len(sizes) > 1:
        (one, a), (other, b) = list(sizes.items())[:2]
        found.append(f"tasks.{b}: its head has {other} outputs, that of {a} {one}; related heads have one size")
    return found
