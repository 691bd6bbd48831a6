"""FedMTL: federated multi-task learning. One file to start every part; `--help` tells the rest."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from common.config import Config, Role, load_config, notes, render
from common.errors import EXIT_CODES, ConfigError, FedMTLError
from common.logs import set_up_logging

if TYPE_CHECKING:
    from rich.console import Console

DEFAULT_CONFIG = "federated_config.yaml"

# About a minute on two cores: generated text is learned from fewer rows and epochs than a real task needs.
DEMO_SIZE = ("training.local_epochs=2", "training.learning_rate=5e-4")
DEMO_ROWS = 400

MODES = {
    "server": "hold the model and run the federation",
    "client": "train on this machine's data",
    "demo": "a server and its clients on this machine",
    "simulate": "a federation of many clients in one process",
    "compare": "methods side by side: does sharing help?",
    "check": "show the configuration, or all its problems",
    "status": "ask a running server who is there",
    "evaluate": "score a finished run's model",
    "export": "write a task's model as a Hugging Face folder",
}

# Short flags of the command line and the configuration keys that they set.
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


class Parser(argparse.ArgumentParser):
    """Accepts `--client-id` for `--client_id`, and reports a mistake as a `ConfigError`."""

    def error(self, message: str) -> NoReturn:
        """Turn argparse's message into this project's kind of error."""
        raise ConfigError(f"command line: {message}; see --help")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one mode and give its exit code (see `common.errors.EXIT_CODES`)."""
    # Small models on shared machines: a second thread costs more than it brings. PyTorch reads this at import.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that wait for work sleep
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # what goes wrong there reaches us as an error of our own
    try:
        options = _parse(sys.argv[1:] if arguments is None else arguments)
        set_up_logging(options.log_format)
        COMMANDS[options.mode][1](options)
    except FedMTLError as error:
        for line in error.message.splitlines():
            print(f"error: {line}", file=sys.stderr)
        return error.exit_code
    except ModuleNotFoundError as error:
        if error.name is None or (Path(__file__).parent / error.name.split(".")[0]).exists():
            raise
        print(
            f"error: the package '{error.name}' is missing; run `make setup`, then use .venv/bin/python",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    mode = _mode_of(arguments)
    parser = _parser(mode)
    options = parser.parse_args(list(map(_underscored, arguments)))
    if options.mode is None:
        parser.print_help()
        raise ConfigError("command line: --mode is missing; one of " + ", ".join(MODES))
    return options


def _mode_of(arguments: Sequence[str]) -> str | None:
    """The mode, read first: each mode has its own options and its own help."""
    first = Parser(add_help=False, allow_abbrev=False)
    first.add_argument("--mode", choices=MODES)
    mode: str | None = first.parse_known_args(arguments)[0].mode
    return mode


def _underscored(argument: str) -> str:
    """`--client-id=x-y` as `--client_id=x-y`."""
    if not argument.startswith("--"):
        return argument
    name, equals, value = argument.partition("=")
    return "--" + name[2:].replace("-", "_") + equals + value


def _parser(mode: str | None) -> Parser:
    codes = ", ".join(f"{code} {meaning}" for code, meaning in EXIT_CODES.items())
    parser = Parser(
        prog="federated_main.py" + (f" --mode {mode}" if mode else ""),
        description=f"FedMTL: {MODES[mode]}." if mode else "FedMTL: federated multi-task learning.",
        epilog=f"Exit codes: {codes}." if mode else "Add --help after a mode for its options.",
        allow_abbrev=False,
        usage="%(prog)s [options]",
    )
    listing = "; ".join(f"{name}: {text}" for name, text in MODES.items())
    parser.add_argument("--mode", choices=MODES, metavar="MODE", help=argparse.SUPPRESS if mode else listing)
    parser.add_argument("--log_format", choices=("text", "json"), default="text", help="how to log (default: text)")
    if mode is not None:
        COMMANDS[mode][0](parser)
    return parser


def _common_options(parser: Parser, seed: str = "--seed", says: str = "seed of the run", form: str = "N") -> None:
    parser.add_argument("--config", metavar="FILE", help=f"YAML configuration (default: {DEFAULT_CONFIG})")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="any configuration key; repeat")
    parser.add_argument(seed, metavar=form, help=says)


def _server_options(parser: Parser) -> None:
    _common_options(parser)
    parser.add_argument("--host", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", help="port to listen on (default: 50051)")
    parser.add_argument("--run_dir", metavar="DIR", help="run folder (default: runs/<run.name>)")
    parser.add_argument("--resume", action="store_true", help="go on with the run in the folder")
    parser.add_argument("--tls_cert", metavar="FILE", help="server certificate, PEM")
    parser.add_argument("--tls_key", metavar="FILE", help="key of the certificate, PEM")
    parser.add_argument("--tls_client_ca", metavar="FILE", help="demand client certificates signed by this CA")
    parser.add_argument("--insecure", action="store_true", help="allow another address than loopback without TLS")


def _data_options(parser: Parser) -> None:
    parser.add_argument("--data_dir", metavar="DIR", help="folder with <task>/train.tsv and so on (implies files)")
    parser.add_argument("--partition", metavar="I/N", help="take part I of N of the rows")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), help="where to compute (default: auto)")


def _caller_options(parser: Parser) -> None:
    parser.add_argument("--server", metavar="HOST:PORT", help="coordinator (default: 127.0.0.1:50051)")
    parser.add_argument("--tls_ca", metavar="FILE", help="CA of the coordinator's certificate, PEM")
    parser.add_argument("--tls_cert", metavar="FILE", help="client certificate, PEM")
    parser.add_argument("--tls_key", metavar="FILE", help="key of the client certificate, PEM")


def _client_options(parser: Parser) -> None:
    _common_options(parser)
    parser.add_argument("--tasks", metavar="A,B", required=True, help="tasks whose data is here")
    parser.add_argument("--client_id", metavar="ID", help="name of this client (default: made and remembered)")
    _caller_options(parser)
    _data_options(parser)
    parser.add_argument("--state_dir", metavar="DIR", help="what the client keeps (default: .fedmtl)")
    parser.add_argument("--insecure", action="store_true", help="allow another address than loopback without TLS")


def _demo_options(parser: Parser) -> None:
    _common_options(parser)
    parser.add_argument("--clients_per_task", type=int, default=2, metavar="N", help="client processes per task")
    parser.add_argument("--run_dir", metavar="DIR", help="run folder (default: runs/demo-<time>)")
    parser.add_argument("--data_dir", metavar="DIR", help="real data instead of generated text")


def _simulate_options(parser: Parser) -> None:
    _common_options(parser)
    _crowd_options(parser, "run folder (default: runs/<run.name>)")
    parser.add_argument("--resume", action="store_true", help="go on with the run in the folder")


def _crowd_options(parser: Parser, run_dir: str) -> None:
    parser.add_argument("--clients", metavar="N", help="virtual clients (default: 100)")
    parser.add_argument("--workers", metavar="N", help="models, each of which trains one client at a time (default: 1)")
    parser.add_argument("--run_dir", metavar="DIR", help=run_dir)
    parser.add_argument("--data_dir", metavar="DIR", help="folder with the rows that are dealt out (implies files)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), help="where to compute (default: auto)")


def _compare_options(parser: Parser) -> None:
    _common_options(parser, "--seeds", "one run of each method per seed (default: 0,1,2)", "N,M")
    parser.add_argument("--methods", metavar="A,B", default="local,single_task,hard", help="default: %(default)s")
    _crowd_options(parser, "folder of all runs (default: runs/compare-<run.name>)")


def _check_options(parser: Parser) -> None:
    _common_options(parser)
    parser.add_argument("--tasks", metavar="A,B", help="also tell what would leave a client with these tasks")
    _data_options(parser)


def _status_options(parser: Parser) -> None:
    _common_options(parser)
    _caller_options(parser)
    parser.add_argument("--insecure", action="store_true", help="allow another address than loopback without TLS")


def _evaluate_options(parser: Parser) -> None:
    parser.add_argument("--run_dir", metavar="DIR", required=True, help="run folder with the model")
    parser.add_argument("--tasks", metavar="A,B", help="tasks to score (default: all of the run)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="any configuration key; repeat")
    _data_options(parser)


def _export_options(parser: Parser) -> None:
    parser.add_argument("--run_dir", metavar="DIR", required=True, help="run folder with the model")
    parser.add_argument("--task", required=True, help="task to export")
    parser.add_argument("--out", metavar="DIR", required=True, help="folder to write; must not exist or be empty")


def _configuration(options: argparse.Namespace, role: Role = "any") -> Config:
    """The file, the `--set` keys and the shortcuts, in this order."""
    given = vars(options)
    shortcuts = dict(SHORTCUTS)
    if options.mode in ("client", "status"):
        shortcuts |= {"tls_cert": "client.tls.certificate", "tls_key": "client.tls.key"}
    overrides = [f"{key}={_quoted(given[flag])}" for flag, key in shortcuts.items() if given.get(flag) is not None]
    if given.get("insecure"):
        overrides.append(("client" if options.mode in ("client", "status") else "server") + ".insecure=true")
    here = Path(DEFAULT_CONFIG)
    beside = Path(__file__).with_name(DEFAULT_CONFIG)
    path = Path(options.config) if options.config else here if here.is_file() else beside
    return load_config(path, [*options.set, *overrides], role)


def _quoted(value: str) -> str:
    """A value of the command line as YAML: numbers stay numbers, everything else is text."""
    return value if value.lstrip("-").isdigit() else "'" + value.replace("'", "''") + "'"


def _names(text: str, flag: str = "--tasks", what: str = "tasks, such as sst2 or sst2,qqp") -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    repeated = {name for name in names if names.count(name) > 1}
    if not names or repeated:
        raise ConfigError(f"{flag}: '{text}' must be one or more different {what}")
    return names


def _console() -> Console:
    """Standard output; wide enough for the tables where it is a file."""
    from rich.console import Console

    return Console() if sys.stdout.isatty() else Console(width=116)


def _server(options: argparse.Namespace) -> None:
    from server.app import serve

    config = _configuration(options, "server")
    _advise(config)
    asyncio.run(serve(config, options.resume, _console() if options.log_format == "text" else None))


def _client(options: argparse.Namespace) -> None:
    from client.app import take_part

    config = _configuration(options, "client")
    asyncio.run(take_part(config, options.client_id, _names(options.tasks)))


def _demo(options: argparse.Namespace) -> None:
    from server.demo import run_demo

    if options.clients_per_task < 1:
        raise ConfigError(f"--clients_per_task: {options.clients_per_task} must be at least 1")
    folder = options.run_dir or f"runs/demo-{time.strftime('%Y%m%d-%H%M%S')}"
    options.run_dir = folder
    plain = _configuration(options)
    options.set = [
        f"federation.clients_per_task={options.clients_per_task}",
        f"federation.min_clients={len(plain.tasks) * options.clients_per_task}",
        "server.port=0",
        *(DEMO_SIZE if plain.data.source == "builtin" else []),
        *(f"tasks.{task}.train_samples={DEMO_ROWS}" for task in plain.tasks if plain.data.source == "builtin"),
        *options.set,
    ]
    config = _configuration(options)
    passed = [word for key in options.set for word in ("--set", key)]
    for flag in ("config", "data_dir", "seed"):
        if getattr(options, flag):
            passed += [f"--{flag}", getattr(options, flag)]
    run_demo(config, options.clients_per_task, passed, Path(__file__), _console())


def _simulate(options: argparse.Namespace) -> None:
    from simulation.app import simulate

    config = _configuration(options, "simulate")
    _advise(config)
    asyncio.run(simulate(config, options.resume, _console() if options.log_format == "text" else None))


def _compare(options: argparse.Namespace) -> None:
    from simulation.comparison.app import compare_methods

    names = _names(options.methods, "--methods", "methods, such as local,hard")
    seeds = _names(options.seeds or "0,1,2", "--seeds", "seeds, such as 0,1,2")
    if not all(seed.isdecimal() for seed in seeds):
        raise ConfigError(f"--seeds: '{options.seeds}' must be whole numbers of 0 or more, such as 0,1,2")
    config = _configuration(options, "simulate")
    _advise(config)
    folder = config.run.folder if config.run.run_dir else Path("runs") / f"compare-{config.run.name}"
    compare_methods(config, names, [*map(int, seeds)], folder, _console() if options.log_format == "text" else None)


def _check(options: argparse.Namespace) -> None:
    config = _configuration(options)
    print(render(config), end="")
    _advise(config)
    if options.tasks:
        from client.disclosure import what_leaves

        print("\n".join(what_leaves(config, _names(options.tasks))))


def _status(options: argparse.Namespace) -> None:
    from client.app import ask_status

    for line in asyncio.run(ask_status(_configuration(options, "client"))):
        print(line)


def _evaluate(options: argparse.Namespace) -> None:
    from client.app import choose_device, load_data, local_definitions
    from client.data.encoding import encode
    from client.training.evaluation import evaluate
    from common.metrics import summarise
    from common.models.packed_tokenizer import unpack_tokenizer
    from server.saved import load_run

    run = load_run(Path(options.run_dir))
    given = vars(options)
    chosen = [f"{SHORTCUTS[f]}={_quoted(given[f])}" for f in ("data_dir", "partition", "device") if given[f]]
    config = load_config(Path(options.run_dir) / "config.yaml", [*options.set, *chosen])
    tasks = _names(options.tasks) if options.tasks else list(config.tasks)
    architecture = run.model.architecture
    reader = unpack_tokenizer(run.model.tokenizer_bytes) if architecture.tokenizer_bytes else None
    run.model.model.to(choose_device(config.client.device))
    print(f"model of round {run.version} in {options.run_dir}, scored on the rows that the configuration names here")
    for task in local_definitions(config, tasks):
        run.load_task(task.name)
        rows = load_data(config, [task])[task.name]
        encoded = encode(rows.validation, task, reader, architecture.encoding, architecture.max_length)
        scores = summarise(task, evaluate(run.model.model, task, encoded, config.training.eval_batch_size))
        text = ", ".join(f"{name} {'-' if value is None else f'{value:.4f}'}" for name, value in scores.items())
        print(f"{task.name}: {text}; {len(rows.validation)} validation rows, {rows.origin}")


def _export(options: argparse.Namespace) -> None:
    from server.export import export_task
    from server.saved import load_run

    run = load_run(Path(options.run_dir))
    run.load_task(options.task)
    for line in export_task(run.model, options.task, Path(options.out)):
        print(line)


def _advise(config: Config) -> None:
    for line in notes(config):
        logging.getLogger("fedmtl").warning("%s", line)


COMMANDS: dict[str, tuple[Callable[[Parser], None], Callable[[argparse.Namespace], None]]] = {
    "server": (_server_options, _server),
    "client": (_client_options, _client),
    "demo": (_demo_options, _demo),
    "simulate": (_simulate_options, _simulate),
    "compare": (_compare_options, _compare),
    "check": (_check_options, _check),
    "status": (_status_options, _status),
    "evaluate": (_evaluate_options, _evaluate),
    "export": (_export_options, _export),
}
"""The options of each mode, and what it does."""


if __name__ == "__main__":
    sys.exit(main())
