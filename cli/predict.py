"""Mode predict: what a run's model says of new rows."""

from __future__ import annotations

import argparse

from cli.options import SHORTCUTS, Parser, path_of, values_of
from cli.output import say
from common.config import load_config
from common.errors import DataError, ModelError


def options(parser: Parser) -> None:
    """The options of this mode."""
    parser.add_argument("--run_dir", metavar="DIR", required=True, help="run folder with the model")
    parser.add_argument("--task", required=True, help="task to answer")
    parser.add_argument(
        "--input", metavar="FILE", required=True, help="rows, in any format that training data may have"
    )
    parser.add_argument("--output", metavar="FILE", required=True, help="new file: the rows with what the model says")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="any configuration key; repeat")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), help="where to compute (default: auto)")


def run(options: argparse.Namespace) -> None:
    """Do it."""
    from client.app import choose_device, data_request, local_definitions
    from client.data.arrays import ARRAYS
    from client.data.examples import prepare
    from client.data.unlabelled import read_unlabelled
    from client.data.writing import WRITERS, write_columns
    from client.training.prediction import predict
    from common.models.packed_tokenizer import unpack_tokenizer
    from server.runs.saved import load_run

    folder, target = path_of("run_dir", options.run_dir), path_of("output", options.output)
    if target.exists() or target.suffix not in WRITERS:
        write_columns(target, {})  # says what is wrong before anything is computed
    run = load_run(folder)
    run.load_task(options.task)
    config = load_config(folder / "config.yaml", options.set, given=values_of(options, {"device": SHORTCUTS["device"]}))
    (task,) = local_definitions(config, [options.task])
    if not task.type.answer:
        raise ModelError(
            f"--task: '{task.name}' is a {task.type}, which has nothing to say of a row; name another task"
        )
    if task.type.per_pixel and target.suffix != ARRAYS:
        raise DataError(
            f"--output: {target}: a {task.type} answers with maps, which only {ARRAYS} files hold; write one"
        )
    if config.data.standardise:
        raise ModelError("data.standardise: each client knows the scale of its own rows, so only clients can answer")
    request, trained = data_request(config, task), run.headers.get(task.name)
    rows = read_unlabelled(path_of("input", options.input), task, request.columns, request.encoder, trained)
    if rows.header is not None and trained is not None and not trained.fits(rows.header):
        there, here = trained.beside(rows.header)
        raise DataError(f"--input: the model was trained on {there}, here are {here}; give the same in that order")
    architecture = run.model.architecture
    tokenizer = unpack_tokenizer(run.model.tokenizer_bytes) if architecture.tokenizer_bytes else None
    run.model.model.to(choose_device(config.client.device))
    prepared = prepare(rows.examples, task, architecture, tokenizer)
    units = run.units_of(task.name)
    outputs = predict(run.model.model, task, prepared, config.training.eval_batch_size, units)
    answers = {f"predicted_{name}": cells for name, cells in task.type.answers(task, outputs).items()}
    given = rows.table.columns if rows.table is not None else {}
    write_columns(target, {**given, **answers})
    say(f"{len(rows.examples)} rows of {task.name} answered by the model of round {run.version}: {target}")
