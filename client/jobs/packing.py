"""What leaves a client: one encoded delta per scope of an order that it trains, none of them private."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from client.jobs.synchronizer import ClientModelSynchronizer
from common.bodies import DENSE_FLOAT32, ScopeVersion
from common.orders import ScopePayload
from common.parameters.encodings import ENCODINGS
from common.parameters.scope import Scope


def pack(
    replica: ClientModelSynchronizer, handed_in: Sequence[ScopeVersion], codec: str, deltas: Mapping[str, Tensor]
) -> tuple[tuple[ScopePayload, ...], memoryview]:
    """The scopes of an update and their bytes, which lie in the replica's memory until its next update is packed.

    The change of a scope is what `deltas` has, CPU vectors by scope, or else that of the model.
    """
    schemas = [replica.schemas[Scope.parse(wanted.scope).base] for wanted in handed_in]
    if codec == DENSE_FLOAT32:  # the difference is written where it is sent from, in one pass
        sizes = [schema.nbytes for schema in schemas]
        payload, at = replica.payload.of(sum(sizes)), 0
        for wanted, schema in zip(handed_in, schemas, strict=True):
            part = torch.from_numpy(payload[at : at + schema.nbytes].view(schema.dtype.value))
            if wanted.scope in deltas:
                part.copy_(deltas[wanted.scope])
            else:
                replica.write_delta(wanted.scope, part)
            at += schema.nbytes
    else:
        encode = ENCODINGS[codec].encode
        parts = [
            encode((deltas[name] if (name := wanted.scope) in deltas else replica.take_delta(name)).numpy(), schema)
            for wanted, schema in zip(handed_in, schemas, strict=True)
        ]
        sizes = [len(part) for part in parts]
        payload = replica.payload.of(sum(sizes))
        if parts:
            np.concatenate(parts, out=payload)
    scopes = tuple(
        ScopePayload(wanted.scope, wanted.version, schema.digest, size)
        for wanted, schema, size in zip(handed_in, schemas, sizes, strict=True)
    )
    return scopes, payload.data
