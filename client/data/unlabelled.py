"""Rows without labels, for a model to answer: one file, in any format that training data may have."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from client.data.arrays import ARRAYS, ReadArrays, arrays_in, by_name, numbers_of, without_labels
from client.data.columns import ColumnNames, Table, examples_in, feature_columns, text_columns
from client.data.examples import RawExamples
from client.data.files import read_all
from client.data.formats import SUFFIXES
from client.data.forms import FORMS
from client.data.parts import read_parts
from client.data.tables import read_columns
from client.data.texts import UnlabelledTexts
from common.encoders.row import ArrayEncoder
from common.errors import DataError
from common.inputs import Header
from common.inputs.arrays import header_of
from common.tasks import TaskDefinition


@dataclass(frozen=True)
class Unlabelled:
    """Rows to be answered."""

    examples: RawExamples
    """With labels that mean nothing."""
    header: Header | None = None
    """What the numbers of a row are, if rows are made of numbers."""
    table: Table | None = None
    """As it was read, where the file is a table."""


def read_unlabelled(
    path: Path, task: TaskDefinition, names: ColumnNames | None, encoder: ArrayEncoder | None, trained: Header | None
) -> Unlabelled:
    """The rows of a file; a label column in it is not read.

    Args:
        path: .npz with an array x, or a table.
        task: what they are answered for.
        names: which column is what, as for training.
        encoder: what reads rows of numbers; None for texts.
        trained: the numbers that the model was trained on, by whose names columns are found.

    Raises:
        DataError: the file is missing or unusable, in one line.
    """
    if not path.is_file():
        raise DataError(f"--input: {path} does not exist; give a file of rows")
    endings = SUFFIXES if encoder is None or FORMS[encoder.inputs].by_column else (ARRAYS, *SUFFIXES)
    if not path.name.removesuffix(".gz").endswith(endings):
        raise DataError(f"--input: {path} is of no known format; use one of {', '.join(endings)}")
    if encoder is None:
        table = read_all([path])
        chosen = text_columns(table, task, names, labelled=False)
        return Unlabelled(UnlabelledTexts(examples_in(table, task, chosen)), table=table)
    return _arrays(path, task, names, encoder, trained)


def _arrays(
    path: Path, task: TaskDefinition, names: ColumnNames | None, encoder: ArrayEncoder, trained: Header | None
) -> Unlabelled:
    wanted = names.features if names is not None else ()
    if not wanted and trained is not None and len(trained.names) == trained.count:
        wanted = trained.names
    if encoder.part_encoders:
        read = read_parts([path], task, encoder, names, labelled=False)
        table = None if read.table is None else read.table.without(encoder.part_encoders)
        return Unlabelled(without_labels(read, task, encoder), header_of(encoder), table)
    table, by_column = None, FORMS[encoder.inputs].by_column
    if by_column:
        table = read_all([path])
        read = read_columns(table, task, encoder, None, labelled=False)
    elif path.name.endswith(ARRAYS):
        arrays = arrays_in(path)
        if "x" not in arrays:
            raise DataError(f"{path}: array 'x' is missing; present are {', '.join(arrays) or 'none'}")
        read = by_name(path, arrays, arrays["x"], np.empty(0), task, ColumnNames(features=wanted))
    else:
        table = read_all([path])
        features = feature_columns(table, task, wanted)
        read = ReadArrays(table.origin, numbers_of(table, features), [], ColumnNames(features=features), table)
    named = () if by_column else read.columns.features
    header = Header.of(named) if named else header_of(encoder)
    return Unlabelled(without_labels(read, task, encoder), header, table)
