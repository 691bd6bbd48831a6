"""How much of the model a client holds and trains: all of it, its heads alone, heads and top layers, or no top layers.

A client says so when it joins (`Capabilities.capacity`). Both sides then work out alike which scopes
its updates leave out; a block of the model is averaged over those who trained it. Scopes are trained whole or not at
all, so the coordinator may have to give each layer a scope of its own (`sharing.by_layer`). A client with
`Capacity.layers` 3 has an encoder of the first three layers, and neither receives nor returns the scopes of the
others; nor does one that lacks a part of rows those of the part's encoder.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from common.capabilities import ALL, Capacity
from common.parameters.plan import EMBEDDINGS, HEADS, block_of, is_layer, layer_number, part_block
from common.parameters.schema import ParameterSchema
from common.parameters.scope import is_private

HEAD = "head"
_FORM = re.compile(r"all|head|top_([1-9][0-9]{0,3})")

Blocks = Mapping[str, frozenset[str]]
"""The blocks of the model (`embeddings`, `layer_<i>`, `top`, `heads`) that each scope has parameters of."""


def blocks_of(schemas: Mapping[str, ParameterSchema]) -> dict[str, frozenset[str]]:
    """The blocks of every scope, private ones included, since they count as layers too."""
    return {scope: frozenset(block_of(e.name) for e in schema.entries) for scope, schema in schemas.items()}


def is_capacity(trains: str) -> bool:
    """Whether a text says how much is trained: `all`, `head` or `top_<n>`."""
    return _FORM.fullmatch(trains) is not None


def absent_scopes(capacity: Capacity, blocks: Blocks) -> frozenset[str]:
    """The scopes of the layers and parts that such a client does not have."""
    absent = _absent_blocks(capacity, blocks)
    return frozenset(scope for scope, found in blocks.items() if found <= absent) if absent else frozenset()


def _absent_blocks(capacity: Capacity, blocks: Blocks) -> frozenset[str]:
    beyond = [] if capacity.layers is None else _layers(_every(blocks))[capacity.layers :]
    return frozenset([*beyond, *map(part_block, capacity.lacks)])


def _every(blocks: Blocks) -> frozenset[str]:
    return frozenset[str]().union(*blocks.values())


def trained_blocks(capacity: Capacity, blocks: Blocks) -> frozenset[str]:
    """The blocks that a client trains; its capacity must have no `capacity_problem`."""
    every = _every(blocks)
    if capacity.trains == HEAD:
        return every & {HEADS}
    held = every - set(map(part_block, capacity.lacks))
    if capacity.trains == ALL:
        return held
    layers = _layers(every)
    return held - {EMBEDDINGS, *layers[: max(len(layers) - _count(capacity.trains), 0)]}


def is_frozen(frozen: str) -> bool:
    """Whether a text says what of the encoder a round leaves alone: nothing (empty), `all`, or lowest layers `<n>`."""
    return frozen in ("", ALL) or re.fullmatch(r"0|[1-9][0-9]{0,3}", frozen) is not None


def frozen_blocks(frozen: str, blocks: Blocks) -> frozenset[str]:
    """The blocks that nobody trains: all but the heads, or the embeddings and the lowest n layers."""
    every = _every(blocks)
    if frozen in ("", ALL):
        return every - {HEADS} if frozen else frozenset()
    return every & {EMBEDDINGS, *_layers(every)[: int(frozen)]}


def frozen_problem(frozen: str, blocks: Blocks) -> str | None:
    """Why a round cannot leave so much of an encoder with these scopes alone, or None."""
    layers = _layers(_every(blocks))
    if frozen in ("", ALL):
        return None
    if int(frozen) > len(layers):
        found = f"the encoder has {len(layers)} layers of its own"
        return f"training.frozen_layers: {frozen}, but {found}; lower it, or write all"
    if not frozen_blocks(frozen, blocks):
        return (
            f"training.frozen_layers: {frozen} is for the embeddings alone, and this encoder has none; write 1 or more"
        )
    return None


def untrained_scopes(capacity: Capacity, blocks: Blocks, frozen: str = "") -> frozenset[str]:
    """The travelling scopes that a client does not train, whether it receives them or not."""
    wanted = trained_blocks(capacity, blocks) - frozen_blocks(frozen, blocks)
    return frozenset(scope for scope, found in blocks.items() if not is_private(scope) and not found & wanted)


def capacity_problem(capacity: Capacity, blocks: Blocks) -> str | None:
    """Why a client cannot hold and train so much and no more in a federation with these scopes, or None."""
    trains = capacity.trains
    if not is_capacity(trains):
        return f"client.trains: '{trains}' is not all, head or top_<n>"
    if problem := trains_problem("client.trains", trains, blocks):
        return problem
    if problem := _depth_problem(capacity, len(_layers(_every(blocks)))):
        return problem
    absent = _absent_blocks(capacity, blocks)
    wanted = trained_blocks(capacity, blocks)
    for scope, found in sorted(blocks.items()):
        # Layers that are not there cannot be in a scope; an idle part may lie in a private one.
        if found & absent and not found <= absent and (capacity.layers is not None or not is_private(scope)):
            return _cut(scope, capacity)
        if found & wanted and not found <= wanted and not is_private(scope):
            return (
                f"client.trains: {trains} is a part of scope '{scope}', and scopes are trained whole; the coordinator "
                "needs sharing.by_layer: true"
            )
    return None


def trains_problem(key: str, trains: str, blocks: Blocks) -> str | None:
    """Why so much of a model with these scopes, as a key of the configuration says, cannot be trained, or None."""
    layers = len(_layers(_every(blocks)))
    if _count(trains) <= layers:
        return None
    return f"{key}: {trains}, but the encoder has {layers} layers of its own; write all, or fewer"


def _depth_problem(capacity: Capacity, known: int) -> str | None:
    layers = capacity.layers
    if layers is None:
        return None
    if layers > known:
        return f"client.layers: {layers}, but the encoder has {known} layers of its own; lower it or leave it out"
    if _count(capacity.trains):
        trains = f"client.trains: {capacity.trains}"
        return f"client.layers: {layers} and {trains} exclude each other; write trains: all or head"
    return None


def _cut(scope: str, capacity: Capacity) -> str:
    if capacity.layers is None:
        lacking = " or ".join(capacity.lacks)
        return f"a client without rows of {lacking} would train a part of scope '{scope}'; rules must keep parts apart"
    return (
        f"client.layers: {capacity.layers} would cut scope '{scope}' in two; the coordinator needs sharing.by_layer: "
        "true, and a plan that shares the top layers"
    )


def _count(trains: str) -> int:
    found = _FORM.fullmatch(trains)
    return int(found[1]) if found is not None and found[1] else 0


def _layers(blocks: frozenset[str]) -> list[str]:
    """Blocks that are layers, from the bottom up."""
    return sorted(filter(is_layer, blocks), key=layer_number)
