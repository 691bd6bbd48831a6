"""Groups of options that several modes have, and the configuration that they make."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from common.config import Config, Role, load_config, location, notes
from common.errors import ConfigError

DEFAULT_CONFIG = "federated_config.yaml"

SHORTCUTS = {
    "run_dir": "run.run_dir",
    "seed": "run.seed",
    "host": "server.host",
    "port": "server.port",
    "server": "client.server",
    "device": "client.device",
    "state_dir": "client.state_dir",
    "data_dir": "data.dir",
    "clients": "simulation.clients",
    "workers": "simulation.workers",
    "partition": "data.partition",
    "tls_cert": "server.tls.certificate",
    "tls_key": "server.tls.key",
    "tls_client_ca": "server.tls.client_ca",
    "tls_ca": "client.tls.ca",
}
"""Short flags of the command line and the configuration keys that they set."""

CALLER_KEYS = {"tls_cert": "client.tls.certificate", "tls_key": "client.tls.key"}
"""The keys that two of them set in modes that call a coordinator."""

NUMBERS = frozenset({"seed", "port", "clients", "workers"})
"""Flags whose values are numbers; those of all others are text, whatever they look like."""


class Parser(argparse.ArgumentParser):
    """Accepts `--client-id` for `--client_id`, and reports a mistake as a `ConfigError`."""

    def error(self, message: str) -> NoReturn:
        """Turn argparse's message into this project's kind of error."""
        raise ConfigError(f"command line: {message}; see --help")


def common_options(parser: Parser, seed: str = "--seed", says: str = "seed of the run", form: str = "N") -> None:
    """The configuration: its file, any key of it, the seed."""
    parser.add_argument("--config", metavar="FILE", help=f"YAML configuration (default: {DEFAULT_CONFIG})")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="any configuration key; repeat")
    parser.add_argument(seed, metavar=form, help=says)


def resume_option(parser: Parser) -> None:
    """Whether to go on with a run; read as a truth value, or "auto"."""
    says = "go on with the run in the folder; with auto, start one where there is none"
    parser.add_argument("--resume", nargs="?", const=True, default=False, choices=("auto",), metavar="auto", help=says)


def data_options(parser: Parser) -> None:
    """Where rows are read and where they are computed on."""
    parser.add_argument("--data_dir", metavar="DIR", help="folder with <task>/train.tsv and so on (implies files)")
    parser.add_argument("--partition", metavar="I/N", help="take part I of N of the rows")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), help="where to compute (default: auto)")


def version_option(parser: Parser) -> None:
    """Which version of a run's model."""
    says = "best, best:TASK, last, or the number of a round (default: best if model.keep.best names one, else last)"
    parser.add_argument("--version", metavar="V", default="", help=says)


def caller_options(parser: Parser) -> None:
    """Which coordinator to call, and how it is trusted."""
    parser.add_argument("--server", metavar="HOST:PORT", help="coordinator (default: 127.0.0.1:50051)")
    parser.add_argument("--tls_ca", metavar="FILE", help="CA of the coordinator's certificate, PEM")
    parser.add_argument("--tls_cert", metavar="FILE", help="client certificate, PEM")
    parser.add_argument("--tls_key", metavar="FILE", help="key of the client certificate, PEM")


def simulation_options(parser: Parser, run_dir: str) -> None:
    """Virtual clients and the folder of their run."""
    parser.add_argument("--clients", metavar="N", help="virtual clients (default: 100)")
    parser.add_argument("--workers", metavar="N", help="models, each of which trains one client at a time (default: 1)")
    parser.add_argument("--run_dir", metavar="DIR", help=run_dir)
    parser.add_argument("--data_dir", metavar="DIR", help="folder with the rows that are dealt out (implies files)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), help="where to compute (default: auto)")


def configuration(options: argparse.Namespace, role: Role = "any") -> Config:
    """The file, the `--set` keys and the shortcuts, in this order."""
    calls = options.mode in ("client", "status")
    given = values_of(options, SHORTCUTS | (CALLER_KEYS if calls else {}))
    if vars(options).get("insecure"):
        given[("client" if calls else "server") + ".insecure"] = True
    here = Path(DEFAULT_CONFIG)
    shipped = Path(__file__).parent.parent / "fedmtl" / DEFAULT_CONFIG
    path = path_of("config", options.config) if options.config else here if here.is_file() else shipped
    return load_config(path, options.set, role, given)


def values_of(options: argparse.Namespace, keys: Mapping[str, str]) -> dict[str, object]:
    """The flags that were given, by the configuration's keys; `keys` is flag -> key."""
    given = vars(options)
    return {key: _value(flag, given[flag]) for flag, key in keys.items() if given.get(flag) is not None}


def _value(flag: str, text: str) -> object:
    return int(text) if flag in NUMBERS and text.lstrip("-").isdecimal() else text


def path_of(flag: str, text: str) -> Path:
    """The path that a flag gives, `~` in it as in the configuration.

    Raises:
        ConfigError: it begins with a home folder that is not known.
    """
    try:
        return Path(location(text))
    except ValueError as error:
        raise ConfigError(f"--{flag}: {error}") from None


def names_in(text: str, flag: str = "--tasks", what: str = "tasks, such as sst2 or sst2,qqp") -> list[str]:
    """The names in a list with commas.

    Raises:
        ConfigError: there is none, or one of them twice.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    repeated = {name for name in names if names.count(name) > 1}
    if not names or repeated:
        raise ConfigError(f"{flag}: '{text}' must be one or more different {what}")
    return names


def advise(config: Config) -> None:
    """Log what is worth knowing about a configuration that is right."""
    for line in notes(config):
        logging.getLogger("fedmtl").warning("%s", line)
