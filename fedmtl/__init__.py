"""FedMTL from Python; `__all__` is what stays stable. Importing it loads no torch; a name is loaded when it is used."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fedmtl.rooms import require_own_rooms

if TYPE_CHECKING:
    from common.errors import FedMTLError
    from fedmtl.compared import compare, sweep
    from fedmtl.daemons import join, serve
    from fedmtl.description import (
        classification,
        dense_classification,
        dense_regression,
        module,
        next_word,
        regression,
        tokens,
    )
    from fedmtl.run import FinishedRun, load
    from fedmtl.simulated import simulate

__version__ = "0.1.0"
__all__ = [
    "FedMTLError",
    "FinishedRun",
    "classification",
    "compare",
    "dense_classification",
    "dense_regression",
    "join",
    "load",
    "module",
    "next_word",
    "regression",
    "serve",
    "simulate",
    "sweep",
    "tokens",
]

_PLACES = {
    "FedMTLError": "common.errors",
    "FinishedRun": "fedmtl.run",
    "classification": "fedmtl.description",
    "compare": "fedmtl.compared",
    "join": "fedmtl.daemons",
    "load": "fedmtl.run",
    "dense_classification": "fedmtl.description",
    "dense_regression": "fedmtl.description",
    "module": "fedmtl.description",
    "next_word": "fedmtl.description",
    "regression": "fedmtl.description",
    "serve": "fedmtl.daemons",
    "simulate": "fedmtl.simulated",
    "sweep": "fedmtl.compared",
    "tokens": "fedmtl.description",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'fedmtl' has no attribute '{name}'; it has {', '.join(__all__)}")
    require_own_rooms()
    return getattr(import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
