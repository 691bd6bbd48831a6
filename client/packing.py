"""What leaves a client: one encoded delta per scope of an order that it trains, none of them private."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from client.model import ClientModelSynchronizer
from common.bodies import DENSE_FLOAT32, ScopeVersion
from common.orders import ScopePayload
from common.parameters.encodings import ENCODINGS


def pack(
    replica: ClientModelSynchronizer, trained: Sequence[ScopeVersion], codec: str
) -> tuple[tuple[ScopePayload, ...], memoryview]:
    """The scopes of an update and their bytes, which lie in the replica's memory until its next update is packed."""
    schemas = [replica.schemas[wanted.scope] for wanted in trained]
    if codec == DENSE_FLOAT32:  # the difference is written where it is sent from, in one pass
        sizes = [schema.nbytes for schema in schemas]
        payload, at = replica.payload.of(sum(sizes)), 0
        for wanted, schema in zip(trained, schemas, strict=True):
            part = payload[at : at + schema.nbytes].view(schema.dtype.value)
            replica.write_delta(wanted.scope, torch.from_numpy(part))
            at += schema.nbytes
    else:
        encode = ENCODINGS[codec].encode
        parts = [
            encode(replica.take_delta(wanted.scope).numpy(), schema)
            for wanted, schema in zip(trained, schemas, strict=True)
        ]
        sizes = [len(part) for part in parts]
        payload = replica.payload.of(sum(sizes))
        if parts:
            np.concatenate(parts, out=payload)
    scopes = tuple(
        ScopePayload(wanted.scope, wanted.version, schema.digest, size)
        for wanted, schema, size in zip(trained, schemas, sizes, strict=True)
    )
    return scopes, payload.data
