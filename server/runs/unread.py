"""Which parameters a task's outputs do not depend on, as its forward pass shows."""

from __future__ import annotations

import torch

from common.models.multitask import MultiTaskModel

ROWS, LENGTH = 2, 4
"""Of the random examples that show it."""


def unread_by(model: MultiTaskModel) -> dict[str, tuple[str, ...]]:
    """Task -> the parameters from which no gradient of its outputs can come, whatever the values.

    A text encoder's pooler, for instance, is not read where the texts of a pair are read one by one. Kinds of inputs
    that cannot draw examples say nothing, as if all were read.
    """
    described, inputs = model.architecture.encoder_config, model.inputs
    named = {name: value for name, value in model.named_parameters() if value.requires_grad}
    found = {}
    for task in model.heads:
        form = model.head(task).form
        if not inputs.tensor_inputs(described, form):
            continue
        length = min(LENGTH, model.architecture.max_length)
        drawn = inputs.drawn_tensors(described, form, ROWS, length, torch.Generator().manual_seed(0))
        total = model(task, inputs.batch_of(form, drawn)).sum()
        gradients = torch.autograd.grad(total, list(named.values()), allow_unused=True)
        found[task] = tuple(name for name, value in zip(named, gradients, strict=True) if value is None)
    return found
