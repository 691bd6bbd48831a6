"""FedMTL: federated multi-task learning. One file to start every part; `--help` tells the rest."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from common.errors import FedMTLError
from common.stopping import INTERRUPTED, noticed


def main(arguments: Sequence[str] | None = None, program: str = "federated_main.py --mode") -> int:
    """Run one mode and give its exit code (see `common.errors.EXIT_CODES`).

    Args:
        arguments: the command line without the program; None for this process's own.
        program: what a person types before the name of a mode.
    """
    # Small models on shared machines: a second thread costs more than it brings. PyTorch reads this at import.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that wait for work sleep
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # what goes wrong there reaches us as an error of our own
    with noticed():  # first of all: imports take long enough for somebody to change their mind
        from cli.output import standard_streams

        with standard_streams():
            return _run(sys.argv[1:] if arguments is None else arguments, program)


def _run(arguments: Sequence[str], program: str) -> int:
    from cli.output import complain

    try:
        from cli.modes import MODES, parse
        from common.logs import set_up_logging

        options = parse(arguments, program)
        set_up_logging(options.log_format)
        MODES[options.mode].run(options)
    except FedMTLError as error:
        for line in error.message.splitlines():
            complain(f"error: {line}")
        return error.exit_code
    except ModuleNotFoundError as error:
        if error.name is None or (Path(__file__).parent / error.name.split(".")[0]).exists():
            raise
        remedy = "run `pip install .` again, or `make setup` and .venv/bin/python"
        complain(f"error: the package '{error.name}' is missing; {remedy}")
        return 1
    except KeyboardInterrupt:
        complain("interrupted")
        return INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main())
