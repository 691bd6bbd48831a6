"""How much of the model a client holds and trains: all of it, its heads alone, heads and top layers, or no top layers.

A client says so when it joins (`Capabilities.trains`). Both sides then work out alike which scopes
its updates leave out; a block of the model is averaged over those who trained it. Scopes are trained whole or not at
all, so the coordinator may have to give each layer a scope of its own (`sharing.by_layer`). A client with
`Capabilities.layers` 3 has an encoder of the first three layers, and neither receives nor returns the scopes of the
others.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from common.capabilities import ALL
from common.parameters.plan import EMBEDDINGS, HEADS, TOP, block_of, layer_number
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


def absent_scopes(layers: int | None, blocks: Blocks) -> frozenset[str]:
    """The scopes of the layers that such a client does not have."""
    if layers is None:
        return frozenset()
    beyond = frozenset(_layers(frozenset[str]().union(*blocks.values()))[layers:])
    return frozenset(scope for scope, found in blocks.items() if found <= beyond)


def trained_blocks(trains: str, blocks: Blocks) -> frozenset[str]:
    """The blocks that a client trains; `trains` must have no `capacity_problem`."""
    every = frozenset[str]().union(*blocks.values())
    if trains == ALL:
        return every
    if trains == HEAD:
        return every & {HEADS}
    layers = _layers(every)
    return every - {EMBEDDINGS, *layers[: len(layers) - _count(trains)]}


def is_frozen(frozen: str) -> bool:
    """Whether a text says what of the encoder a round leaves alone: nothing (empty), `all`, or lowest layers `<n>`."""
    return frozen in ("", ALL) or re.fullmatch(r"0|[1-9][0-9]{0,3}", frozen) is not None


def frozen_blocks(frozen: str, blocks: Blocks) -> frozenset[str]:
    """The blocks that nobody trains: all but the heads, or the embeddings and the lowest n layers."""
    every = frozenset[str]().union(*blocks.values())
    if frozen in ("", ALL):
        return every - {HEADS} if frozen else frozenset()
    return every & {EMBEDDINGS, *_layers(every)[: int(frozen)]}


def frozen_problem(frozen: str, blocks: Blocks) -> str | None:
    """Why a round cannot leave so much of an encoder with these scopes alone, or None."""
    layers = _layers(frozenset[str]().union(*blocks.values()))
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


def untrained_scopes(trains: str, blocks: Blocks, frozen: str = "") -> frozenset[str]:
    """The travelling scopes that a client receives and does not train."""
    wanted = trained_blocks(trains, blocks) - frozen_blocks(frozen, blocks)
    return frozenset(scope for scope, found in blocks.items() if not is_private(scope) and not found & wanted)


def depth_problem(trains: str, layers: int | None, blocks: Blocks) -> str | None:
    """Why a client cannot have an encoder of the first few layers in a federation with these scopes, or None."""
    if layers is None:
        return None
    known = _layers(frozenset[str]().union(*blocks.values()))
    if layers > len(known):
        return f"client.layers: {layers}, but the encoder has {len(known)} layers of its own; lower it or leave it out"
    if _count(trains):
        return f"client.layers: {layers} and client.trains: {trains} exclude each other; write trains: all or head"
    beyond = frozenset(known[layers:])
    for scope, found in sorted(blocks.items()):
        if found & beyond and not found <= beyond:
            return (
                f"client.layers: {layers} would cut scope '{scope}' in two; the coordinator needs sharing.by_layer: "
                "true, and a plan that shares the top layers"
            )
    return None


def capacity_problem(trains: str, blocks: Blocks) -> str | None:
    """Why a client cannot train so much and no more in a federation with these scopes, or None."""
    if not is_capacity(trains):
        return f"client.trains: '{trains}' is not all, head or top_<n>"
    layers = _layers(frozenset[str]().union(*blocks.values()))
    if _count(trains) > len(layers):
        return f"client.trains: {trains}, but the encoder has {len(layers)} layers of its own; write all, or fewer"
    wanted = trained_blocks(trains, blocks)
    for scope, found in sorted(blocks.items()):
        if not is_private(scope) and found & wanted and not found <= wanted:
            return (
                f"client.trains: {trains} is a part of scope '{scope}', and scopes are trained whole; the coordinator "
                "needs sharing.by_layer: true"
            )
    return None


def _count(trains: str) -> int:
    found = _FORM.fullmatch(trains)
    return int(found[1]) if found is not None and found[1] else 0


def _layers(blocks: frozenset[str]) -> list[str]:
    """Blocks that are layers, from the bottom up."""
    return sorted(blocks - {EMBEDDINGS, TOP, HEADS}, key=layer_number)
