"""FedMTL from Python; `__all__` is what stays stable. Importing it loads no torch; a name is loaded when it is used."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fedmtl.rooms import require_own_rooms

if TYPE_CHECKING:
    from common.errors import FedMTLError
    from fedmtl.description import classification, dense_classification, dense_regression, module, regression
    from fedmtl.run import FinishedRun
    from fedmtl.simulated import simulate

__version__ = "0.1.0"
__all__ = [
    "FedMTLError",
    "FinishedRun",
    "classification",
    "dense_classification",
    "dense_regression",
    "module",
    "regression",
    "simulate",
]

_PLACES = {
    "FedMTLError": "common.errors",
    "FinishedRun": "fedmtl.run",
    "classification": "fedmtl.description",
    "dense_classification": "fedmtl.description",
    "dense_regression": "fedmtl.description",
    "module": "fedmtl.description",
    "regression": "fedmtl.description",
    "simulate": "fedmtl.simulated",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'fedmtl' has no attribute '{name}'; it has {', '.join(__all__)}")
    require_own_rooms()
    return getattr(import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
