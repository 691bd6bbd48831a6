"""What Python code may give as the rows of a task, and what is made of it: arrays or lists, rows and labels in turn."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch.utils.data import Dataset, IterableDataset

from client.app import data_request
from client.data.examples import TaskData
from client.data.given import read_given
from client.data.sources import finished
from common.config import Config
from common.errors import ConfigError, DataError, foreign_errors
from common.names import RULE, is_id

Given: TypeAlias = "Sequence[Any] | Dataset[Any]"
"""(x, y), of which every fourth row is for validation, or (x, y, x_validation, y_validation); or one or two map-style
torch Datasets of pairs. x are arrays, tensors or DataFrames (rows, ...), or texts."""
Sites: TypeAlias = Mapping[str, Mapping[str, Given]]
"""Site -> task -> rows."""


def unpacked(tasks: Collection[str], sites: Sites) -> dict[str, dict[str, tuple[Any, ...]]]:
    """Site -> task -> (x, y) or (x, y, x_validation, y_validation), each an array, a DataFrame or a list.

    Raises:
        ConfigError: a site or a task has a name or rows that it cannot have.
        DataError: rows are given in a form that is not known.
    """
    found = {site: of_site(site, tasks, rows) for site, rows in sites.items()}
    without = [task for task in tasks if not any(task in rows for rows in sites.values())]
    if without or not tasks:
        raise ConfigError(f"sites: none has rows of {without[0] if without else 'any task'}; give some")
    return _in_one_order(found)


def _in_one_order(sites: dict[str, dict[str, tuple[Any, ...]]]) -> dict[str, dict[str, tuple[Any, ...]]]:
    """The same, in which DataFrames of a task have their columns in the order of the first one."""
    first: dict[str, list[object]] = {}
    for site, rows in sites.items():
        for task, values in rows.items():
            tables = [x for x in values[::2] if hasattr(x, "columns")]
            for names in ([*x.columns] for x in tables):
                if {*names} != {*first.setdefault(task, names)}:
                    here, there = (", ".join(map(str, each)) for each in (names, first[task]))
                    raise DataError(f"site {site}, task {task}: columns are {here}, elsewhere {there}; name them alike")
            ordered = [x[first[task]] if hasattr(x, "columns") else x for x in values[::2]]
            rows[task] = tuple(part for pair in zip(ordered, values[1::2], strict=True) for part in pair)
    return sites


def of_site(site: str, tasks: Collection[str], rows: Mapping[str, Given]) -> dict[str, tuple[Any, ...]]:
    """The same for one site."""
    if not is_id(site):
        raise ConfigError(f"sites: '{site}' must be {RULE}")
    if not isinstance(rows, Mapping) or not rows or not rows.keys() <= {*tasks}:
        said = sorted(rows) if isinstance(rows, Mapping) and rows else "no task"
        raise ConfigError(f"sites: {site} has rows of {said}; tasks are {', '.join(tasks)}")
    return {task: _parts(f"site {site}, task {task}", values) for task, values in rows.items()}


def row_shape(sites: Mapping[str, Mapping[str, tuple[Any, ...]]]) -> tuple[int, ...]:
    """The shape of the first row; () where rows are texts, or of several parts."""
    x = next(values[0] for rows in sites.values() for values in rows.values())
    if isinstance(x, Mapping) or not len(x):
        return ()
    return tuple(x.shape[1:]) if hasattr(x, "shape") else np.shape(x[0])


def read(config: Config, site: str, given: Mapping[str, tuple[Any, ...]]) -> dict[str, TaskData]:
    """One site's rows by task, ready to train on.

    Raises:
        DataError: what is wrong with them.
    """
    requests = {task: data_request(config, config.tasks[task].definition(task)) for task in given}
    return {task: finished(read_given(requests[task], site, given[task]), requests[task]) for task in given}


def _parts(where: str, values: Given) -> tuple[Any, ...]:
    datasets = [values] if isinstance(values, Dataset) else values
    if isinstance(datasets, tuple | list) and 0 < len(datasets) < 3 and _are_datasets(datasets):
        return tuple(part for dataset in datasets for part in _of_dataset(where, dataset))
    if not isinstance(values, tuple | list) or len(values) not in (2, 4):
        raise DataError(f"{where}: give (x, y), (x, y, x_validation, y_validation), or a torch Dataset of pairs")
    return tuple(_array(where, part) for part in values)


def _are_datasets(values: Sequence[Any]) -> bool:
    return all(isinstance(value, Dataset) for value in values)


def _of_dataset(where: str, dataset: Any) -> tuple[Any, Any]:
    if isinstance(dataset, IterableDataset):
        raise DataError(f"{where}: an IterableDataset has no rows by number; give (x, y) made of it")
    wrong = f"{where}: the Dataset does not give pairs (row, label) by number"
    with foreign_errors(lambda error: DataError(f"{wrong} ({type(error).__name__}: {error}); mend it")):
        pairs = [dataset[number] for number in range(len(dataset))]
    if not all(isinstance(pair, tuple | list) and len(pair) == 2 for pair in pairs):
        raise DataError(f"{wrong}; mend it")
    return _array(where, [pair[0] for pair in pairs]), _array(where, [pair[1] for pair in pairs])


def _array(where: str, part: Any) -> Any:
    """A tensor, or a list of tensors, as an array; everything else as it is."""
    if not hasattr(part, "__len__") or isinstance(part, str) or (hasattr(part, "ndim") and not part.ndim):
        raise DataError(f"{where}: {type(part).__name__} has no rows; give arrays or lists")
    with foreign_errors(lambda error: DataError(f"{where}: its tensors make no array: {error}; give equal shapes")):
        if isinstance(part, list) and part and isinstance(part[0], torch.Tensor):
            part = torch.stack(part)
        return part.detach().cpu().numpy() if isinstance(part, torch.Tensor) else part
