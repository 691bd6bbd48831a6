"""`python -m fedmtl`, and the command `fedmtl` of an installation: `fedmtl M` is `federated_main.py --mode M`."""

from __future__ import annotations

import sys

from fedmtl.rooms import require_own_rooms


def main() -> int:
    """Run one mode and give its exit code."""
    try:
        require_own_rooms()
    except ImportError as error:  # before anything of `common` is imported, that which shows errors included
        print(f"error: {error}", file=sys.stderr)
        return 1
    from federated_main import main as run

    return run(program="fedmtl")


if __name__ == "__main__":
    sys.exit(main())
