"""Mode server: hold the model and run the federation."""

from __future__ import annotations

import argparse
import asyncio
from functools import partial

from cli.options import Parser, advise, common_options, configuration, names_in, resume_option
from cli.output import console
from common.errors import ConfigError


def options(parser: Parser) -> None:
    """The options of this mode."""
    common_options(parser)
    parser.add_argument("--host", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", help="port to listen on (default: 50051)")
    parser.add_argument("--run_dir", metavar="DIR", help="run folder (default: runs/<run.name>)")
    resume_option(parser)
    says = "let these clients, which are in quarantine, take part again: CLIENT or CLIENT,CLIENT"
    parser.add_argument("--lift", metavar="CLIENT", help=says)
    parser.add_argument("--tls_cert", metavar="FILE", help="server certificate, PEM")
    parser.add_argument("--tls_key", metavar="FILE", help="key of the certificate, PEM")
    parser.add_argument("--tls_client_ca", metavar="FILE", help="demand client certificates signed by this CA")
    parser.add_argument("--insecure", action="store_true", help="allow another address than loopback without TLS")


def run(options: argparse.Namespace) -> None:
    """Do it."""
    from server.runs.app import serve

    config = configuration(options, "server")
    advise(config)
    lift = names_in(options.lift, "--lift", "clients, such as site_a or site_a,site_b") if options.lift else []
    if lift and not options.resume:
        raise ConfigError(f"--lift: '{options.lift}' needs a run to go on with; add --resume")
    shown = console() if options.log_format == "text" else None
    again = partial(configuration, options, "server")
    asyncio.run(serve(config, options.resume, shown, lift=lift, again=again))
