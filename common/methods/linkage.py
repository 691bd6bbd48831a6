"""Agglomerative clustering of a few members by how alike they are: partitions, and an order in which clusters meet."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]
Groups = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Partition:
    """One level of a dendrogram."""

    groups: Groups
    """Places of members, of each group in an order in which those that joined first stand together."""
    alike: float
    """How alike the two groups were that joined last; 1 where none has."""


def dendrogram(alike: Float64, complete: bool = False) -> list[Partition]:
    """All partitions from single members to one group; from each to the next, the two groups most alike join.

    Args:
        alike: (m, m), symmetric; the diagonal is not read.
        complete: two groups are as alike as their least alike members; otherwise as these are on average.

    Returns:
        m partitions. Of pairs that are as alike, the first in the order of groups joins.
    """
    groups: list[tuple[int, ...]] = [(k,) for k in range(len(alike))]
    between = np.array(alike, dtype=np.float64)
    found = [Partition(tuple(groups), 1.0)]
    while len(groups) > 1:
        upper = np.where(np.triu(np.ones(between.shape, dtype=bool), 1), between, -np.inf)
        i, j = divmod(int(upper.argmax()), len(groups))
        height = float(between[i, j])
        one, other = groups[i], groups[j]
        if complete:
            row = np.minimum(between[i], between[j])
        else:
            row = (len(one) * between[i] + len(other) * between[j]) / (len(one) + len(other))
        between[i], between[:, i] = row, row
        between = np.delete(np.delete(between, j, axis=0), j, axis=1)
        groups[i] = _end_to_end(one, other, alike)
        del groups[j]
        found.append(Partition(tuple(groups), height))
    return found


def clusters_of(alike: Float64) -> Groups:
    """The partition of average linkage at the widest gap between the heights of joins.

    Heights go from 1, of members by themselves, to 0, which what has nothing in common reaches: all are one cluster
    where even the last join is nearer to the others than to 0.
    """
    levels = dendrogram(alike)
    heights = [level.alike for level in levels] + [0.0]
    gaps = [heights[i] - heights[i + 1] for i in range(len(levels))]
    return levels[int(np.argmax(gaps))].groups if levels else ()


def _end_to_end(one: tuple[int, ...], other: tuple[int, ...], alike: Float64) -> tuple[int, ...]:
    """Two groups, turned so that the ends that are most alike meet."""
    turned = [(a, b) for a in (one, one[::-1]) for b in (other, other[::-1])]
    left, right = max(turned, key=lambda pair: float(alike[pair[0][-1], pair[1][0]]))
    return left + right
