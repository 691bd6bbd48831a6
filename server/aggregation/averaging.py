"""The average of versions, kept beside the moments of the server's optimizer, block by block."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from common.methods.averages import AVERAGE
from common.parameters.encodings import BLOCK
from common.parameters.scope import Scope, moment_name
from common.parameters.vector import Vector


def average_names(scopes: Mapping[str, Vector]) -> dict[str, str]:
    """Of each scope that is part of the model, what its average is called among the moments."""
    return {scope: moment_name(AVERAGE, scope) for scope in scopes if not Scope.parse(scope).is_derived}


def averaged(values: Mapping[str, Vector], moments: dict[str, Vector], share: float) -> dict[str, Vector]:
    """The averages by scope after they went a share of the way to new values; `moments` keep them.

    What has no average yet begins with its value. Averages are rounded to the type of the scope in each round, so that
    a restart goes on with the same bits.
    """
    found = {}
    for scope, name in average_names(values).items():
        value, before = values[scope], moments.get(name)
        if before is None or share == 1.0:
            moments[name] = value.copy()
        else:
            for start in range(0, len(value), BLOCK):
                block = before[start : start + BLOCK]
                way = value[start : start + BLOCK].astype(np.float64) - block
                block[:] = block + share * way
        found[scope] = moments[name]
    return found
