"""Mean and deviation of one client's rows of one task: what `data.standardise` takes out of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # see `common.inputs.kind`
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class RowScale:
    """Rows are read as (row - mean) * factor."""

    mean: NDArray[np.float64]
    """(1, ...), of the dimensions of a batch."""
    factor: NDArray[np.float64]
    """Shape of `mean`; one over the deviation, and 0 where a number is always the same."""

    @classmethod
    def of(cls, rows: NDArray[Any], axes: tuple[int, ...]) -> RowScale:
        """That of rows (rows, ...), over these axes, in float64."""
        import numpy as np

        wide = rows.astype(np.float64)
        mean, deviation = wide.mean(axis=axes, keepdims=True), wide.std(axis=axes, keepdims=True)
        return cls(mean, np.divide(1.0, deviation, out=np.zeros_like(deviation), where=deviation > 0))

    def scaled(self, rows: NDArray[Any]) -> NDArray[np.float32]:
        """Rows as the model reads them."""
        import numpy as np

        return ((rows - self.mean) * self.factor).astype(np.float32)
