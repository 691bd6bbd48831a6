"""Mode report: a run as one HTML page, or as numbers."""

from __future__ import annotations

import argparse
import json

from cli.options import Parser, path_of
from cli.output import say


def options(parser: Parser) -> None:
    """The options of this mode."""
    parser.add_argument("--run_dir", metavar="DIR", required=True, help="run folder, of a run that ended or goes on")
    parser.add_argument("--out", metavar="FILE", help="page to write (default: report.html in the run folder)")
    parser.add_argument("--json", action="store_true", help="show the numbers as JSON and write nothing")


def run(options: argparse.Namespace) -> None:
    """Do it."""
    from server.reporting.page import page_of
    from server.reporting.values import to_json
    from server.runs.reading import read_run
    from server.storage.files import write_whole

    folder = path_of("run_dir", options.run_dir)
    report, relations, leaves = read_run(folder)
    if options.json:
        found = {**to_json(report), "matrix": to_json(relations), "leaves": leaves}
        say(*json.dumps(found, indent=2, allow_nan=False).splitlines())
        return
    target = path_of("out", options.out) if options.out else folder / "report.html"
    write_whole(target, [page_of(report, relations, leaves).encode()])
    say(f"report of {folder}: {target}")
