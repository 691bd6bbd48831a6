"""Mean and deviation of one client's rows of one task: what `data.statistics: site` takes out of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
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


def spread(numbers: Sequence[float], parts: Sequence[tuple[tuple[int, ...], int]]) -> NDArray[np.float64]:
    """A number for each column or channel of several parts, as one for each number of the flattened parts.

    Args:
        numbers: those of the first part, then those of the next, and so on.
        parts: the shape of each and the axis of its columns or channels.
    """
    import numpy as np

    counts = [shape[axis] for shape, axis in parts]
    found = []
    for (shape, axis), count, end in zip(parts, counts, accumulate(counts), strict=True):
        fitting = [count if place == axis else 1 for place in range(len(shape))]
        mine = np.reshape(np.array(numbers[end - count : end], dtype=np.float64), fitting)
        found.append(np.broadcast_to(mine, shape).ravel())
    return np.concatenate(found)
