"""Covariances of members: symmetric, positive semidefinite (m, m) matrices Sigma of trace 1, float64.

The penalty (lambda/2) tr(W Sigma^-1 W') on the models W (d, m) of m members says how they are related: the larger
Sigma_kj, the more alike the models k and j. Trace 1 makes strengths comparable: Sigma = I/m penalises every model by
(lambda m / 2) ||w_k||^2, whatever the relation. A Gram matrix is W'W, (m, m).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from common.methods.linkage import dendrogram

Float64 = NDArray[np.float64]

_ROUNDING = 1e-14
"""Relative to the largest eigenvalue of a Gram matrix: below this an eigenvalue is rounding."""


def independent(count: int) -> Float64:
    """I/m: members know nothing of each other."""
    return np.eye(count) / max(count, 1)


def learned(gram: Float64, floor: float) -> Float64:
    """The probabilistic prior of Zhang and Yeung (UAI 2010): Sigma = (W'W + e I)^(1/2) / trace.

    For fixed W this is the minimiser of tr(W Sigma^-1 W') + e tr(Sigma^-1) over all Sigma of trace 1. e = `floor` times
    the mean eigenvalue of W'W, so that the scale of W does not matter, and that a Sigma of fewer dimensions than
    members has an inverse.

    Args:
        gram: W'W, (m, m); zero gives I/m.
        floor: e relative to the mean eigenvalue, at least 0.
    """
    values, vectors = _spectrum(gram)
    if not values.any():
        return independent(len(gram))
    return _of_spectrum(np.sqrt(values + floor * values.mean()), vectors)


def clustered(gram: Float64, clusters: float, eta: float) -> Float64:
    """Clusters that nobody names (Jacob, Bach and Vert, NIPS 2008; relaxed as by Zhou, Chen and Ye, NIPS 2011).

    With the normalised indicator of k clusters as columns of E, E'E = I, the penalty tr(W (eta I + E E')^-1 W') costs
    what a model has in common with its cluster 1/(1 + eta), and what sets it apart from it 1/eta. The relaxation takes
    any M with 0 <= M <= I and tr(M) = k in place of E E'. With W'W = V diag(a) V' the best M is V diag(x) V', its
    eigenvalues in the order of a, and minimises

        sum_i a_i / (eta + x_i)  subject to  0 <= x_i <= 1,  sum_i x_i = k.

    Where x_i is inside of its bounds, a_i / (eta + x_i)^2 equals one multiplier 1/s^2 for all, hence

        x_i = clip(s sqrt(a_i) - eta, 0, 1),

    of which the sum grows with s, in pieces of a line: s follows exactly from the ends of the piece that holds k.

    Args:
        gram: W'W, (m, m); zero gives I/m.
        clusters: k; from m on, the result is I/m.
        eta: more than 0; the smaller, the closer members stay to what their cluster has in common.

    Returns:
        Sigma = (eta I + M) / (eta m + k).
    """
    values, vectors = _spectrum(gram)
    if not values.any() or clusters >= len(gram):
        return independent(len(gram))
    roots = np.sqrt(np.maximum(values, _ROUNDING * values.max()))
    return _of_spectrum(eta + _filled(roots, clusters, eta), vectors)


def of_graph(adjacency: Float64, strength: float) -> Float64:
    """A graph of members: Sigma^-1 proportional to I + strength * L, L = diag(A 1) - A.

    tr(W Sigma^-1 W') is then sum_k ||w_k||^2 + strength * sum over pairs of A_kj ||w_k - w_j||^2, times a factor.

    Args:
        adjacency: A, (m, m), symmetric and not negative; the diagonal has no effect.
        strength: at least 0.
    """
    laplacian = np.diag(adjacency.sum(axis=1)) - adjacency
    return of_precision(np.eye(len(adjacency)) + strength * laplacian)


def of_precision(omega: Float64) -> Float64:
    """The inverse of a precision matrix, of trace 1.

    Args:
        omega: (m, m), symmetric and positive definite.
    """
    values, vectors = _spectrum(omega)
    return _of_spectrum(1.0 / values, vectors)


def precision(sigma: Float64) -> Float64:
    """Omega = (m Sigma)^-1, so that I/m becomes I; `sigma` must be positive definite."""
    values, vectors = _spectrum(sigma)
    inverse = (vectors / (len(sigma) * values)) @ vectors.T
    return np.asarray((inverse + inverse.T) / 2.0, dtype=np.float64)


def correlations(sigma: Float64) -> Float64:
    """Sigma_kj / sqrt(Sigma_kk Sigma_jj), within [-1, 1]; 1 on the diagonal."""
    lengths = np.sqrt(np.diag(sigma))
    scales = np.outer(lengths, lengths)
    found = np.divide(sigma, scales, out=np.zeros_like(sigma), where=scales > 0.0)
    np.fill_diagonal(found, 1.0)
    return np.asarray(np.clip(found, -1.0, 1.0), dtype=np.float64)


def coupling_bound(sigma: Float64, blocks: Sequence[int]) -> float:
    """How much steps of blocks that do not see each other must be damped to be added up (CoCoA+, MOCHA).

    The least sigma' for which, for all u,

        sum_kk' Sigma_t(k)t(k') <u_k, u_k'>  <=  sigma' sum_k Sigma_t(k)t(k) ||u_k||^2:

    the largest eigenvalue of the correlations, with each member once for each of its blocks. MOCHA takes the largest
    sum of a row of |Sigma_tt'| / Sigma_tt, which is never below it.

    Args:
        sigma: (m, m) with a positive diagonal.
        blocks: the member t(k) of each block of coordinates; several may belong to one.
    """
    times = np.sqrt(np.bincount(np.asarray(blocks, dtype=np.intp), minlength=len(sigma)))
    largest = float(np.linalg.eigvalsh(correlations(sigma) * np.outer(times, times)).max(initial=1.0))
    return largest * (1.0 + 1e-12)


def ordered(sigma: Float64) -> tuple[int, ...]:
    """Members in the order of a dendrogram (average linkage of correlations), so that clusters stand together."""
    return dendrogram(correlations(sigma))[-1].groups[0] if len(sigma) else ()


def _spectrum(matrix: Float64) -> tuple[Float64, Float64]:
    """Eigenvalues, those below 0 by rounding as 0, and eigenvectors, of the symmetric part."""
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2.0)
    return np.maximum(values, 0.0), vectors


def _of_spectrum(values: Float64, vectors: Float64) -> Float64:
    """The matrix with this spectrum, symmetric to the bit, of trace 1."""
    matrix = (vectors * (values / values.sum())) @ vectors.T
    return np.asarray((matrix + matrix.T) / 2.0, dtype=np.float64)


def _filled(roots: Float64, total: float, eta: float) -> Float64:
    """x_i = clip(s * root_i - eta, 0, 1), with the s for which they sum to `total`, below their number."""

    def at(s: float) -> Float64:
        return np.clip(s * roots - eta, 0.0, 1.0)

    ends = np.sort(np.concatenate([eta / roots, (1.0 + eta) / roots]))
    sums = np.array([at(s).sum() for s in ends])
    after = int(np.searchsorted(sums, total))
    low, high = ends[after - 1], ends[after]
    share = (total - sums[after - 1]) / (sums[after] - sums[after - 1])
    return at(float(low + share * (high - low)))
