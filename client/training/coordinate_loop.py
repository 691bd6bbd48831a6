"""The inner loop of dual coordinate ascent: one loop, over dense or compressed rows, interpreted or compiled.

Numba, where it is installed, compiles the loop with the loss's step inside of it, once per process, loss and layout.
Nothing is kept on disk: a kept loop would not notice a change of the step, and an installation may be read-only.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import Any

from client.training.design import Compressed, Vector
from common.methods.dual_losses import Step

Loop = Callable[..., None]
"""(entries, squares, targets, weights, order, alpha, model, factor, smoothing): visits the rows that `order` names,
writes `alpha` (n,) and moves `model` (d,) by factor (new - old) x_i. All but `entries` and the last two are arrays."""


def loop_of(product: Callable[..., Any], add: Callable[..., Any], step: Step) -> Loop:
    """The loop over rows of one layout."""

    def loop(
        entries: Any,
        squares: Any,
        targets: Any,
        weights: Any,
        order: Any,
        alpha: Any,
        model: Any,
        factor: float,
        smoothing: float,
    ) -> None:
        for i in order:
            old = alpha[i]
            new = step(product(entries, i, model), targets[i], weights[i], old, factor * squares[i], smoothing)
            if new != old:
                alpha[i] = new
                add(entries, i, factor * (new - old), model)

    return loop


def compiles() -> bool:
    """Whether numba is installed."""
    return find_spec("numba") is not None


@cache
def coordinate_loop(step: Step, compressed: bool, compiled: bool) -> Loop:
    """The loop of a loss and a layout.

    Raises:
        ImportError: it shall be compiled, and numba is not installed.
    """
    if not compiled:
        return loop_of(*_NUMPY[compressed], step)
    compiler = _compiler()
    loop: Loop = compiler(nogil=True)(loop_of(*_compiled_parts(compressed), compiler(step)))
    return loop


@cache
def _compiled_parts(compressed: bool) -> tuple[Callable[..., float], Callable[..., None]]:
    # `reassoc` lets the sum of a product use the processor's vectors; the step itself keeps strict arithmetic.
    vectorising = _compiler()(fastmath={"reassoc", "contract"})
    product, add = _PLAIN[compressed]
    return vectorising(product), vectorising(add)


def _compiler() -> Any:
    import numba

    return numba.njit


def _product_dense(entries: Vector, i: int, model: Vector) -> float:
    return float(entries[i] @ model)


def _add_dense(entries: Vector, i: int, amount: float, model: Vector) -> None:
    model += amount * entries[i]


def _product_sparse(entries: Compressed, i: int, model: Vector) -> float:
    values, columns, begins = entries
    own = slice(begins[i], begins[i + 1])
    return float(values[own] @ model[columns[own]])


def _add_sparse(entries: Compressed, i: int, amount: float, model: Vector) -> None:
    values, columns, begins = entries
    own = slice(begins[i], begins[i + 1])
    model[columns[own]] += amount * values[own]  # a row names a column once


def _dot_dense(entries: Vector, i: int, model: Vector) -> float:
    total = 0.0
    for j in range(model.shape[0]):
        total += entries[i, j] * model[j]
    return total


def _axpy_dense(entries: Vector, i: int, amount: float, model: Vector) -> None:
    for j in range(model.shape[0]):
        model[j] += amount * entries[i, j]


def _dot_sparse(entries: Compressed, i: int, model: Vector) -> float:
    values, columns, begins = entries
    total = 0.0
    for k in range(begins[i], begins[i + 1]):
        total += values[k] * model[columns[k]]
    return total


def _axpy_sparse(entries: Compressed, i: int, amount: float, model: Vector) -> None:
    values, columns, begins = entries
    for k in range(begins[i], begins[i + 1]):
        model[columns[k]] += amount * values[k]


_NUMPY: dict[bool, tuple[Callable[..., float], Callable[..., None]]] = {
    False: (_product_dense, _add_dense),
    True: (_product_sparse, _add_sparse),
}
_PLAIN: dict[bool, tuple[Callable[..., float], Callable[..., None]]] = {
    False: (_dot_dense, _axpy_dense),
    True: (_dot_sparse, _axpy_sparse),
}
"""Product and sum of dense and of compressed rows, for the interpreter and for the compiler."""
