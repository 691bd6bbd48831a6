"""FedMTL as an installed package; `__all__` is what stays stable. Importing it loads neither torch nor any room."""

__version__ = "0.1.0"
__all__ = ["__version__"]
