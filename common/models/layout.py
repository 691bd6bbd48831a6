"""How a model's parameters fall into scopes, without making their values."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from common.models.multitask import MultiTaskModel
from common.orders import ModelArchitecture
from common.parameters.flat import shapes_of, types_of
from common.parameters.plan import SharingPlan
from common.parameters.schema import ParameterSchema
from common.tasks import TaskDefinition


def scope_schemas(
    architecture: ModelArchitecture, tasks: Sequence[TaskDefinition], plan: SharingPlan
) -> dict[str, ParameterSchema]:
    """The schema of every scope of the whole model, private ones included, by scope name.

    Both sides compute this from the same description and compare digests before any data moves.

    Raises:
        ConfigError: the plan leaves a parameter without a scope.
        ModelError: the model cannot be built.
    """
    with torch.device("meta"):
        model = MultiTaskModel(architecture, tasks)
    return plan.schemas(shapes_of(model), types_of(model))
