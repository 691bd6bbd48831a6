"""What a trained task says of rows that nobody has labelled, whichever side it comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from client.app import choose_device
from client.data.examples import RawExamples, prepare
from client.data.tokenised import WordSet
from client.training.prediction import predict, predict_tokens
from common.config import Config
from common.errors import DataError, ModelError
from common.models.packed_tokenizer import unpack_tokenizer
from common.models.trained import TrainedTask


def answers(trained: TrainedTask, rows: RawExamples, config: Config) -> Mapping[str, Sequence[object]]:
    """What it says of each row, by column; see `TaskKind.answers`.

    Args:
        trained: of the model that was trained with `config`.
        rows: as they were read, not yet on any scale; their labels mean nothing.
        config: says where to compute, and on how many rows at a time.

    Raises:
        ModelError: the task has nothing to say of a row, or only clients know the scale of theirs.
        DataError: a row has a part that the client never had, or an output is not finite.
    """
    task, model = trained.task, trained.model
    if not task.type.answer:
        raise ModelError(f"task '{task.name}' is a {task.type}, which has nothing to say of a row; name another task")
    require_scale(trained, config)
    if config.model.array_encoder is not None:
        for part in sorted({*trained.lacks} - rows.lacking(config.model.array_encoder)):
            raise DataError(f"task '{task.name}': this client never had data of part '{part}'; leave that part out")
    model.to(choose_device(config.client.device))
    tokenizer = unpack_tokenizer(trained.tokenizer) if trained.tokenizer else None
    placed = rows if trained.scale is None else rows.on_scale(trained.scale)
    prepared = prepare(placed, task, model.architecture, tokenizer).scaled(trained.common_scale)
    batch_size = config.training.eval_batch_size
    if isinstance(prepared, WordSet) and tokenizer is not None:
        found = predict_tokens(model, task, prepared, batch_size)
        return task.type.word_answers(task, found, lambda token: str(tokenizer.decode([token])))
    return task.type.answers(task, predict(model, task, prepared, batch_size, trained.units))


def require_scale(trained: TrainedTask, config: Config) -> None:
    """Check that rows can be read as the model was trained on them.

    Raises:
        ModelError: its clients scaled theirs, each by its own.
    """
    if config.data.statistics == "site" and trained.scale is None:
        raise ModelError(
            "data.statistics: site: each site knows the scale of its own rows, so only clients can answer; name one: "
            "--client_id beside the --run_dir of a simulation (in Python client=...), or its --state_dir"
        )
