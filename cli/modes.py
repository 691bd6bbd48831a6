"""The table of modes, and how a command line is read."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cli import (
    backup,
    check,
    client,
    compare,
    demo,
    enrol,
    evaluate,
    export,
    identity,
    init,
    leave,
    predict,
    provision,
    report,
    server,
    simulate,
    status,
    verify,
)
from cli.options import Parser
from common.errors import EXIT_CODES, ConfigError


@dataclass(frozen=True)
class Mode:
    """What a mode does in a few words, its options, and how it is run."""

    says: str
    options: Callable[[Parser], None]
    run: Callable[[argparse.Namespace], None]


MODES = {
    "server": Mode("hold the model and run the federation", server.options, server.run),
    "client": Mode("train on this machine's data", client.options, client.run),
    "demo": Mode("a server and its clients on this machine", demo.options, demo.run),
    "init": Mode("write a folder to start from", init.options, init.run),
    "simulate": Mode("a federation of many clients in one process", simulate.options, simulate.run),
    "compare": Mode("methods side by side: does sharing help?", compare.options, compare.run),
    "check": Mode("show the configuration and the rows, or all their problems", check.options, check.run),
    "identity": Mode("show the key by which other clients know this one", identity.options, identity.run),
    "provision": Mode("make a federation's certificates", provision.options, provision.run),
    "enrol": Mode("make a site's key, and ask for its certificate", enrol.options, enrol.run),
    "status": Mode("ask a running server who is there", status.options, status.run),
    "leave": Mode("ask a running server to leave a client out for good", leave.options, leave.run),
    "evaluate": Mode("score a finished run's model", evaluate.options, evaluate.run),
    "predict": Mode("answer new rows with a run's model", predict.options, predict.run),
    "report": Mode("write a run as one HTML page", report.options, report.run),
    "verify": Mode("check that everything in a run folder is whole", verify.options, verify.run),
    "backup": Mode("copy a run, also while it runs", backup.options, backup.run),
    "export": Mode("write a task's model as a Hugging Face folder", export.options, export.run),
}


def parse(arguments: Sequence[str], program: str) -> argparse.Namespace:
    """The options of a command line; `mode` says which mode they are for.

    Args:
        arguments: those of `program`: the mode as the first word or as `--mode`, and its options.
        program: what a person types before the name of a mode.

    Raises:
        ConfigError: it is wrong.
    """
    if arguments and not arguments[0].startswith("-"):
        arguments = ["--mode", *arguments]
    mode = _mode_of(arguments)
    parser = parser_of(mode, program)
    options = parser.parse_args(list(map(_underscored, arguments)))
    if options.mode is None:
        parser.print_help()
        raise ConfigError("command line: the mode is missing; one of " + ", ".join(MODES))
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


def parser_of(mode: str | None, program: str) -> Parser:
    """The parser of a mode, or the one that lists all modes; `program` is shown before the mode."""
    codes = ", ".join(f"{code} {meaning}" for code, meaning in EXIT_CODES.items())
    parser = Parser(
        description=f"FedMTL: {MODES[mode].says}." if mode else "FedMTL: federated multi-task learning.",
        epilog=f"Exit codes: {codes}." if mode else "Add --help after a mode for its options.",
        allow_abbrev=False,
        usage=f"{program} {mode or 'MODE'} [options]",
    )
    listing = "; ".join(f"{name}: {known.says}" for name, known in MODES.items())
    parser.add_argument("--mode", choices=MODES, metavar="MODE", help=argparse.SUPPRESS if mode else listing)
    parser.add_argument("--log_format", choices=("text", "json"), default="text", help="how to log (default: text)")
    if mode is not None:
        MODES[mode].options(parser)
    return parser
