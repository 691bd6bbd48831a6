"""Mode predict: what a trained model says of new rows."""

from __future__ import annotations

import argparse

from cli.options import SHORTCUTS, Parser, path_of, values_of
from cli.output import say
from cli.trained import trained_options, trained_task
from common.errors import DataError, ModelError


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
    from client.app import choose_device, data_request
    from client.data.arrays import ARRAYS
    from client.data.examples import prepare
    from client.data.tokenised import WordSet
    from client.data.unlabelled import read_unlabelled
    from client.data.writing import WRITERS, write_columns
    from client.training.prediction import predict, predict_tokens
    from common.models.packed_tokenizer import unpack_tokenizer

    target = path_of("output", options.output)
    if target.exists() or target.suffix not in WRITERS:
        write_columns(target, {})  # says what is wrong before anything is computed
    opened = trained_task(options, values_of(options, {"device": SHORTCUTS["device"]}))
    config, trained = opened.config, opened.trained
    task, model = trained.task, trained.model
    if not task.type.answer:
        raise ModelError(
            f"--task: '{task.name}' is a {task.type}, which has nothing to say of a row; name another task"
        )
    if task.type.per_pixel and target.suffix != ARRAYS:
        raise DataError(
            f"--output: {target}: a {task.type} answers with maps, which only {ARRAYS} files hold; write one"
        )
    if config.data.statistics == "site" and trained.scale is None:
        raise ModelError(
            "data.statistics: site: each client knows the scale of its own rows, so only clients can answer; "
            "name a client's --state_dir"
        )
    request, header = data_request(config, task), trained.header
    rows = read_unlabelled(path_of("input", options.input), task, request.columns, request.encoder, header)
    if rows.header is not None and header is not None and not header.fits(rows.header):
        there, here = header.beside(rows.header)
        raise DataError(f"--input: the model was trained on {there}, here are {here}; give the same in that order")
    if request.encoder is not None:
        for part in sorted({*trained.lacks} - rows.examples.lacking(request.encoder)):
            raise DataError(f"--input: this client never had data of part '{part}' to learn from; leave that part out")
    tokenizer = unpack_tokenizer(trained.tokenizer) if trained.tokenizer else None
    model.to(choose_device(config.client.device))
    examples = rows.examples if trained.scale is None else rows.examples.on_scale(trained.scale)
    prepared = prepare(examples, task, model.architecture, tokenizer).scaled(trained.common_scale)
    batch_size = config.training.eval_batch_size
    if isinstance(prepared, WordSet) and tokenizer is not None:
        found = predict_tokens(model, task, prepared, batch_size)
        said = task.type.word_answers(task, found, lambda token: str(tokenizer.decode([token])))
    else:
        said = task.type.answers(task, predict(model, task, prepared, batch_size, trained.units))
    given = rows.table.columns if rows.table is not None else {}
    write_columns(target, {**given, **{f"predicted_{name}": cells for name, cells in said.items()}})
    say(f"{len(rows.examples)} rows of {task.name} answered by {trained.origin}: {target}")
