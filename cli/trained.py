"""Where modes that use a trained model find it: in a run folder, or in what a client keeps."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cli.options import Parser, path_of, version_option
from common.config import Config, load_config
from common.errors import ConfigError

if TYPE_CHECKING:  # they bring torch
    from client.jobs.saved import SavedSlice
    from common.export.card import CardFacts
    from common.models.trained import TrainedTask


def trained_options(parser: Parser) -> None:
    """The options that say which model."""
    place = parser.add_mutually_exclusive_group(required=True)
    place.add_argument("--run_dir", metavar="DIR", help="run folder with the coordinator's model")
    place.add_argument("--state_dir", metavar="DIR", help="what a client keeps: private heads, personal models")
    version_option(parser)
    parser.add_argument(
        "--client_id", metavar="ID", help="a client of a simulation's --run_dir, or one of several in a --state_dir"
    )
    parser.add_argument(
        "--model", choices=("received", "personal"), help="which model of a client (default: the better one)"
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="any configuration key; repeat")


@dataclass(frozen=True)
class NamedModel:
    """The model that a command line names."""

    config: Config
    """The one that it was trained with, as the command line changes it."""
    trained: TrainedTask
    facts: Callable[[], CardFacts]
    """Tells how the model was made."""


def trained_task(options: argparse.Namespace, given: dict[str, object]) -> NamedModel:
    """The model that the options name.

    Args:
        options: the command line, with a task.
        given: values of the configuration that go before.

    Raises:
        FedMTLError: there is no such model, or what is wrong with it.
    """
    if names_client(options):
        kept = kept_slice(options)
        config = load_config(kept.config, options.set, given=given)
        trained = kept.trained(config, options.task, options.model)
        return NamedModel(config, trained, lambda: kept.facts(options.task, options.model))
    require_run(options)
    from server.runs.card import card_facts
    from server.runs.run_folder import RunFolder
    from server.runs.saved import load_run

    folder = RunFolder(path_of("run_dir", options.run_dir))
    run = load_run(folder.path, options.version)
    trained = run.trained(options.task)
    config = load_config(folder.config, options.set, given=given)
    return NamedModel(config, trained, lambda: card_facts(run, folder, options.task))


def names_client(options: argparse.Namespace) -> bool:
    """Whether the options name a client's model, not the run's."""
    return options.state_dir is not None or options.client_id is not None


def require_run(options: argparse.Namespace) -> None:
    """Check that the options of a run's model name none of a client.

    Raises:
        ConfigError: they do.
    """
    if options.model is not None:
        raise ConfigError("--model: a run folder has one model; name a client: --client_id, or its --state_dir")


def kept_slice(options: argparse.Namespace) -> SavedSlice:
    """What the client has that the options name.

    Raises:
        FedMTLError: it has nothing, or what is wrong with it.
    """
    if options.version:
        raise ConfigError("--version: a client keeps the model that it received last; leave --version out")
    if options.state_dir is not None:
        from client.jobs.saved import load_slice

        return load_slice(path_of("state_dir", options.state_dir), options.client_id)
    from simulation.saved import load_client

    return load_client(path_of("run_dir", options.run_dir), options.client_id)
