"""Model tensors as views into one flat vector per scope."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from common.parameters.schema import ElementType, ParameterSchema

TORCH_TYPES = {ElementType.FLOAT32: torch.float32, ElementType.FLOAT64: torch.float64}
"""Element types of schemas as torch has them."""


def shapes_of(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Name and shape of every parameter, tied ones once, in the model's order."""
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def bind(model: nn.Module, schemas: Mapping[str, ParameterSchema]) -> dict[str, Tensor]:
    """Move each scope's parameters into one contiguous vector and make the model's tensors views of it.

    Returns one vector per scope, on the model's device, holding the model's present values. Writing to a
    vector in place changes the model and the other way round.
    """
    parameters = dict(model.named_parameters())
    vectors = {}
    for scope, schema in schemas.items():
        device = parameters[schema.entries[0].name].device
        vector = torch.empty(schema.size, dtype=TORCH_TYPES[schema.dtype], device=device)
        for entry in schema.entries:
            parameter = parameters[entry.name]
            view = vector[entry.offset : entry.offset + entry.count].view(entry.shape)
            view.copy_(parameter.detach())
            parameter.data = view
        vectors[scope] = vector
    return vectors


def zeros(schema: ParameterSchema) -> Tensor:
    """A vector of zeros on the CPU."""
    return torch.zeros(schema.size, dtype=TORCH_TYPES[schema.dtype])


def views(vector: Tensor, schema: ParameterSchema) -> dict[str, Tensor]:
    """The parameters inside a flat vector by name, sharing its memory."""
    return {e.name: vector[e.offset : e.offset + e.count].view(e.shape) for e in schema.entries}


def to_bytes(vector: Tensor) -> memoryview:
    """The little-endian bytes of a contiguous vector on the CPU, without a copy."""
    return vector.detach().contiguous().numpy().data.cast("B")
