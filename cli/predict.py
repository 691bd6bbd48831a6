"""Mode predict: what a trained model says of new rows."""

from __future__ import annotations

import argparse

from cli.options import SHORTCUTS, Parser, path_of, values_of
from cli.output import say
from cli.trained import trained_options, trained_task
from common.errors import DataError


def options(parser: Parser) -> None:
    """The options of this mode."""
    trained_options(parser)
    parser.add_argument("--task", required=True, help="task to answer")
    parser.add_argument(
        "--input", metavar="FILE", required=True, help="rows, in any format that training data may have"
    )
    parser.add_argument("--output", metavar="FILE", required=True, help="new file: the rows with what the model says")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), help="where to compute (default: auto)")


def run(options: argparse.Namespace) -> None:
    """Do it."""
    from client.answers import answers
    from client.app import data_request
    from client.data.arrays import ARRAYS
    from client.data.unlabelled import read_unlabelled
    from client.data.writing import WRITERS, write_columns

    target = path_of("output", options.output)
    if target.exists() or target.suffix not in WRITERS:
        write_columns(target, {})  # says what is wrong before anything is computed
    found = trained_task(options, values_of(options, {"device": SHORTCUTS["device"]}))
    config, trained = found.config, found.trained
    task = trained.task
    if task.type.per_pixel and target.suffix != ARRAYS:
        raise DataError(
            f"--output: {target}: a {task.type} answers with maps, which only {ARRAYS} files hold; write one"
        )
    request, header = data_request(config, task), trained.header
    rows = read_unlabelled(path_of("input", options.input), task, request.columns, request.encoder, header)
    if rows.header is not None and header is not None and not header.fits(rows.header):
        there, here = header.beside(rows.header)
        raise DataError(f"--input: the model was trained on {there}, here are {here}; give the same in that order")
    said = {f"predicted_{name}": cells for name, cells in answers(trained, rows.examples, config).items()}
    given = rows.table.columns if rows.table is not None else {}
    write_columns(target, {**given, **said})
    say(f"{len(rows.examples)} rows of {task.name} answered by {trained.origin}: {target}")
