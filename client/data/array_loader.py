"""Rows of numbers for one client, whatever their shape, from files or generated."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from client.data.arrays import read_rows
from client.data.examples import TaskData
from client.data.request import DataRequest, shard
from client.data.synthetic import generate_rows
from common.inputs import Header


def load(request: DataRequest) -> TaskData:
    """The rows asked for; see `client.data.sources`."""
    if request.source == "builtin":
        return _generated(request)
    scored, encoder = request.val_samples != 0, request.array_encoder
    data = read_rows(request.files, request.task, encoder, request.seed, request.columns, scored=scored)
    train = data.train.take(shard(len(data.train), request, "train", request.train_samples))
    validation = data.validation.take(shard(len(data.validation), request, "validation", request.val_samples))
    return replace(data, train=train, validation=validation)


def _generated(request: DataRequest) -> TaskData:
    (number, parts), samples, encoder = request.partition, request.builtin_samples, request.array_encoder
    train = generate_rows(request.task, encoder, "train", samples[0] * parts, request.seed)
    validation = generate_rows(request.task, encoder, "validation", samples[1] * parts, request.seed)
    train, validation = (rows.take(np.arange(number - 1, len(rows), parts)) for rows in (train, validation))
    return TaskData(train, validation, "synthetic (built-in)", headers=(Header.shaped(encoder.row_shape),))
