"""A real client daemon that does everything except training: it adds a constant to every parameter instead.

Run as a program: `python -m benchmarks.scoring_client --config FILE --client_id NAME --tasks sst2 --set KEY=VALUE`.
"""

from __future__ import annotations

import argparse
import asyncio
import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # as the command line of the product does, before torch is there
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import torch

from client.app import take_part
from client.training.work import ClientState, Trained, Work
from common.config import load_config
from common.logs import set_up_logging

SHIFT = 2.0**-10
"""What every parameter gains in a round, so that every byte of every update and of every version differs."""


def stand_still(work: Work, state: ClientState) -> Trained:
    """In the place of `client.training.procedures.plain`."""
    with torch.no_grad():
        for parameter in work.model.parameters():
            parameter.add_(SHIFT)
    work.progress(1.0)
    return Trained({})


def main() -> None:
    """Take part until the run is over."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True)
    parser.add_argument("--client_id", required=True)
    parser.add_argument("--tasks", required=True)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    set_up_logging("text")
    config = load_config(Path(options.config), options.set)
    asyncio.run(take_part(config, options.client_id, options.tasks.split(","), stand_still))


if __name__ == "__main__":
    main()
