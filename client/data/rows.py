"""What a client holds of one task: rows of texts or of numbers, and what their columns are."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.data.columns import ColumnNames
from client.data.example import Example
from client.data.features import FeatureRows
from common.inputs.header import Header

Rows = list[Example] | FeatureRows

SHOWN_FEATURES = 20


@dataclass(frozen=True)
class TaskData:
    """The rows of one task that a client trains on and scores with.

    `origin` says where they come from, `columns` which column is what (nothing for generated rows), `header` what the
    numbers of a row are (None for texts). `notes` are for the person whose rows they are.
    """

    train: Rows
    validation: Rows
    origin: str
    columns: ColumnNames = field(default_factory=ColumnNames)
    header: Header | None = None
    notes: tuple[str, ...] = ()

    @property
    def described(self) -> str:
        """Which column is what, in one line; empty for generated rows."""
        columns = self.columns
        named = {"text": columns.text, "text_pair": columns.text_pair, "label": columns.label}
        said = [f"{role} '{name}'" for role, name in named.items() if name is not None]
        if said and self.header is not None:
            shown = [*columns.features[:SHOWN_FEATURES], "..."][: len(columns.features)]
            said.append(f"{self.header.count} features " + (", ".join(shown) or "without names, taken by position"))
        return ", ".join(said)


def pick(rows: Rows, places: NDArray[np.int64]) -> Rows:
    """The rows at these places, in this order."""
    return rows.take(places) if isinstance(rows, FeatureRows) else [rows[place] for place in places]


def labels_of(rows: Rows) -> NDArray[Any]:
    """The labels as an array; of texts with several labels each, of tuples."""
    return rows.labels if isinstance(rows, FeatureRows) else np.array([row.label for row in rows])
