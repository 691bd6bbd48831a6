"""What a run gave: its scores, and a model of each task."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from client.data.array_examples import BRIGHTEST, standardise
from client.data.forms import ArrayForm, form_of
from client.data.given import labelled, rows_in, unlabelled
from client.data.tokenised import WordSet
from client.training.prediction import predict, predict_tokens
from common.config import load_config
from common.errors import ConfigError, ModelError, RunFolderError
from common.inputs.arrays import ArrayBatch
from common.models.given_module import give
from common.models.multitask import MultiTaskModel
from common.models.packed_tokenizer import unpack_tokenizer
from common.standardising import InputScale
from common.targets import TargetUnits
from server.reporting.history import Score, scores_of
from server.reporting.metrics_file import times_in
from server.reporting.relations import Relations
from server.reporting.values import Report, from_json
from server.runs.reading import read_run
from server.runs.run_folder import RunFolder
from server.runs.saved import SavedRun, load_run
from server.storage.journal import Journal

if TYPE_CHECKING:
    from fedmtl.pictures import Picture


class TaskModel(nn.Module):
    """The encoder and the head of one task: from rows to what the head says, in a regression's own units."""

    def __init__(
        self, model: MultiTaskModel, task: str, units: TargetUnits, form: ArrayForm, scale: InputScale | None = None
    ) -> None:
        super().__init__()
        self.model, self.task, self.units, self.form, self.scale = model, task, units, form, scale

    def forward(self, rows: Tensor) -> Tensor:
        """Logits or numbers, float32 (rows, outputs), for rows of numbers (rows, *shape); bytes count as 0 to 1."""
        values = rows / BRIGHTEST if rows.dtype == torch.uint8 else rows.float()
        if self.scale is not None:
            values = standardise(values, self.scale, self.form)
        outputs: Tensor = self.model(self.task, ArrayBatch(values))
        return self.units.mean + self.units.scale * outputs


@dataclass(frozen=True)
class FinishedRun:
    """What is left of a run when it has ended."""

    folder: Path
    """Its run folder: `fedmtl evaluate`, `export` and `verify` read it."""
    report: Report
    """Everything that `report.json` says."""

    @cached_property
    def scores(self) -> list[Score]:
        """The scores of every version, of all clients together (`client` is empty) and of each."""
        folder = RunFolder.open(self.folder)
        journal = Journal.read(folder.journal)
        try:
            return scores_of(load_config(folder.config).definitions(), journal.rounds(), times_in(folder.metrics))
        finally:
            journal.close()

    @cached_property
    def history(self) -> Any:
        """The same as a table: a `pandas.DataFrame` where pandas is installed, else `scores` as they are."""
        if find_spec("pandas") is None:
            return self.scores
        import pandas

        return pandas.DataFrame(self.scores, columns=[*Score.__annotations__])

    def plot(self) -> Picture:
        """The curves of every task's first metric: of all clients together, and of each as a thin line.

        Raises:
            ConfigError: matplotlib is not installed.
        """
        if find_spec("matplotlib") is None:
            raise ConfigError("plot: the package matplotlib is missing; run pip install 'fedmtl[pictures]'")
        from fedmtl.pictures import curves

        return curves(load_config(self.folder / "config.yaml").definitions(), self.scores)

    @cached_property
    def relations(self) -> Relations | None:
        """How tasks or members of this run relate: `names`, `matrix`, and by `kind` what its numbers are.

        None where the run measured nothing of the sort: `sharing.plan: adaptive` and sums by task do.
        """
        return read_run(self.folder)[1]

    def model(self, task: str, version: str | int | None = None) -> TaskModel:
        """A model of a task over rows of numbers, ready to use; each call gives one of its own.

        `version` is "best", "best:<task>", "last" or a round's number; None: the best one, or the last where nothing
        has been scored by which one could be the best.

        Raises:
            ModelError: that version is not there, there is no such task, it reads texts, or its head is private to
                the clients.
        """
        saved = self._saved(task, version)
        encoder, scale = saved.config.model.array_encoder, saved.scales.get(task)
        if encoder is None:
            raise ModelError(f"task '{task}' reads texts, and a model alone has no tokenizer; use run.predict")
        part = saved.model.model.part([task]).eval()
        return TaskModel(part, task, saved.units_of(task), form_of(encoder), scale).eval()

    def predict(self, task: str, x: Any, version: str | int | None = None) -> list[Any] | NDArray[Any]:
        """The answers for rows or texts as `simulate` takes them: names of labels, or float64 (rows,) of a regression.

        Of tasks with a label per pixel, maps (rows, height, width) of class indices or numbers; with a label per word,
        a list for each text, with None for words that the model does not read; of next words, the likeliest one.

        Raises:
            ModelError: see `model`; or the task has several answers per row or none.
            DataError: a row is not as the model reads it.
        """
        saved = self._saved(task, version)
        definition, model, units = saved.model.tasks[task], saved.model.model, saved.units_of(task)
        kind = definition.type
        if not (kind.answer and (kind.one_label or kind.per_pixel or kind.per_token)):
            raise ModelError(f"task '{task}' is a {kind}; predictions are of tasks with one answer per row")
        architecture = saved.model.architecture
        tokenizer = unpack_tokenizer(saved.model.tokenizer_bytes) if architecture.tokenizer_bytes else None
        encoder = saved.config.model.array_encoder
        batch = saved.config.training.eval_batch_size
        if tokenizer is not None and kind.per_token:
            texts = unlabelled(definition, "rows to predict", x)
            asked = texts.prepare(definition, tokenizer, architecture.pair_mode, architecture.max_length)
            assert isinstance(asked, WordSet)
            said = predict_tokens(model, definition, asked, batch)
            found = kind.word_answers(definition, said, lambda token: str(tokenizer.decode([token])))
            return [*next(iter(found.values()))]
        unknown: Sequence[Any] | NDArray[Any] = [definition.labels[0] if definition.labels else 0.0] * rows_in(x)
        if kind.per_pixel and encoder is not None:
            unknown = np.zeros((len(x), *encoder.row_shape[1:]))
        rows = labelled(definition, encoder, "rows to predict", x, unknown)
        examples = rows.prepare(definition, tokenizer, architecture.pair_mode, architecture.max_length)
        prepared = examples.scaled(saved.scales.get(task))
        outputs = predict(model, definition, prepared, batch, units)
        if kind.has_units:
            return outputs[:, 0]
        if kind.per_pixel:
            classes: NDArray[np.int64] = outputs.argmax(axis=1)
            return classes
        return [definition.labels[place] for place in outputs.argmax(axis=1)]

    def _saved(self, task: str, version: str | int | None) -> SavedRun:
        saved = load_run(self.folder, "" if version is None else str(version))
        saved.load_task(task)
        if saved.config.data.statistics == "site":
            raise ModelError("data.statistics: site: each site knows the scale of its own rows, nobody else does")
        return saved


def load(run_dir: str | Path, encoder: nn.Module | None = None) -> FinishedRun:
    """A run that ended earlier, from its folder.

    Args:
        run_dir: its run folder.
        encoder: where the run's encoder was an instance of a torch module and another process gave it: one with the
            same code and shapes, whose values do not matter.

    Raises:
        RunFolderError: there is no run, or it has not ended.
        ModelError: `encoder` is not like that of the run.
    """
    folder = RunFolder.open(Path(run_dir))
    path = folder.path / "report.json"
    if not path.is_file():
        raise RunFolderError(f"run_dir: '{run_dir}' has no report.json; the run has not ended")
    row = load_config(folder.config).model.given
    if encoder is not None and row is not None and (now := give(encoder, row.reads, row.shape)) != row:
        differs = f"{now.sha256[:16]}, not {row.sha256[:16]}"
        raise ModelError(f"encoder: '{now.class_}' differs in code or shapes from that of the run ({differs})")
    return FinishedRun(folder.path, from_json(Report, json.loads(path.read_text(encoding="utf-8"))))
