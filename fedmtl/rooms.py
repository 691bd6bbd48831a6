"""Whether the rooms beside this package are the ones that Python imports: their names are those of many projects."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

ROOMS = ("common", "server", "client", "simulation", "cli", "federated_main")
"""What is installed beside this package, and imported by these names."""


def require_own_rooms() -> None:
    """Check that no other package or file hides one of ours; nothing is imported.

    Raises:
        ImportError: one is hidden; the message is one line that names what hides it.
    """
    here = Path(__file__).resolve().parent.parent
    for room in ROOMS:
        spec = find_spec(room)
        if spec is None or spec.origin is None:
            continue  # it is not here at all, which the import itself says best
        found = Path(spec.origin).resolve()
        if found not in (here / room / "__init__.py", here / f"{room}.py"):
            hiding = found.parent if found.name == "__init__.py" else found
            remedy = "rename it, or run from a folder without it"
            raise ImportError(f"{hiding} hides the package '{room}' of FedMTL in {here}; {remedy}", name=room)
