"""Where modes that use a trained model find it: in a run folder, or in what a client keeps."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from cli.options import Parser, path_of
from common.config import Config, load_config
from common.errors import ConfigError

if TYPE_CHECKING:  # it brings torch
    from common.models.trained import TrainedTask


def trained_options(parser: Parser) -> None:
    """The options that say which model."""
    place = parser.add_mutually_exclusive_group(required=True)
    place.add_argument("--run_dir", metavar="DIR", help="run folder with the coordinator's model")
    place.add_argument("--state_dir", metavar="DIR", help="what a client keeps: private heads, personal models")
    parser.add_argument("--client_id", metavar="ID", help="whose, where several clients share a --state_dir")
    parser.add_argument(
        "--model", choices=("received", "personal"), help="which model of a client (default: the better one)"
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="any configuration key; repeat")


def trained_task(options: argparse.Namespace, given: dict[str, object]) -> tuple[Config, TrainedTask]:
    """The model that the options name, with the configuration that it was trained with.

    Args:
        options: the command line, with a task.
        given: values of the configuration that go before.

    Raises:
        FedMTLError: there is no such model, or what is wrong with it.
    """
    if options.state_dir is not None:
        from client.jobs.saved import load_slice

        kept = load_slice(path_of("state_dir", options.state_dir), options.client_id)
        config = load_config(kept.files.config, options.set, given=given)
        return config, kept.trained(config, options.task, options.model)
    for flag in ("client_id", "model"):
        if vars(options)[flag] is not None:
            raise ConfigError(f"--{flag}: a run folder has one model; name a client's --state_dir, or leave it out")
    from server.runs.saved import load_run

    folder = path_of("run_dir", options.run_dir)
    run = load_run(folder)
    return load_config(folder / "config.yaml", options.set, given=given), run.trained(options.task)
