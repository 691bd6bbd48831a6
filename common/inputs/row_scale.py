"""Mean and deviation of one client's rows of one task: what `data.statistics: site` takes out of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from common.standardising import InputScale

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
    def by(cls, mean: NDArray[np.float64], deviation: NDArray[np.float64]) -> RowScale:
        """To mean 0 and deviation 1; both of the shape of `mean`."""
        import numpy as np

        return cls(mean, np.divide(1.0, deviation, out=np.zeros_like(deviation), where=deviation > 0))

    @classmethod
    def along(cls, scale: InputScale, axis: int, dimensions: int) -> RowScale:
        """The federation's, for rows of so many dimensions whose columns or channels lie along an axis."""
        import numpy as np

        shape = [1] * (dimensions + 1)
        shape[axis + 1] = len(scale.means)
        return cls.by(np.reshape(scale.means, shape), np.reshape(scale.scales, shape))

    def scaled(self, rows: NDArray[Any]) -> NDArray[np.float32]:
        """Rows as the model reads them."""
        import numpy as np

        return ((rows - self.mean) * self.factor).astype(np.float32)
