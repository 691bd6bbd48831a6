"""Mode provision: keys and certificates of a federation, or the answer to a site that asks for one."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime

from cli.options import Parser, path_of
from cli.output import say


def options(parser: Parser) -> None:
    """The options of this mode."""
    parser.add_argument("--out", metavar="DIR", required=True, help="folder of the authority; what is there stays")
    parser.add_argument("--kits", action="store_true", help="make the clients' keys here, too, for a trial")
    parser.add_argument("--sign", metavar="REQUEST", help="write the certificate that this client.csr asks for")
    parser.add_argument("--renew", action="store_true", help="write files that are there anew, but for the authority")
    parser.add_argument("consortium", metavar="FILE", help="who takes part, YAML")


def run(options: argparse.Namespace) -> None:
    """Do it."""
    from common.config.consortium import read_consortium
    from common.credentials.authority import require_package
    from common.credentials.files import Folder, provision, read_file, server_settings, sign

    require_package()
    consortium = read_consortium(path_of("consortium", options.consortium))
    folder, now = Folder(path_of("out", options.out), options.renew), datetime.now(UTC)
    if options.sign:
        request = read_file(path_of("sign", options.sign), "name the client.csr of a site")
        key = sign(consortium, folder, request, now)
        say(*folder.told, key, "Compare this with what the site reads, then send it the certificate as client.pem.")
        return
    provision(consortium, folder, options.kits, now)
    say(*folder.told, "The coordinator's configuration needs:", *server_settings(consortium, folder.path).splitlines())
