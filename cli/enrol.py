"""Mode enrol: make a site's key, and a request for the certificate of it."""

from __future__ import annotations

import argparse

from cli.options import Parser, path_of
from cli.output import say


def options(parser: Parser) -> None:
    """The options of this mode."""
    parser.add_argument("--out", metavar="DIR", required=True, help="folder of the key, which never leaves it")
    parser.add_argument("--renew", action="store_true", help="make another key in place of the one that is there")
    parser.add_argument("invitation", metavar="INVITATION", help="file that the coordinator's side sent")


def run(options: argparse.Namespace) -> None:
    """Do it."""
    from common.config.consortium import read_invitation
    from common.credentials.authority import require_package
    from common.credentials.files import Folder, enrol

    require_package()
    folder = Folder(path_of("out", options.out), options.renew)
    key = enrol(read_invitation(path_of("invitation", options.invitation)), folder)
    say(
        *folder.told,
        key,
        "Send client.csr back, tell this fingerprint on another way, put the answer here as client.pem.",
    )
