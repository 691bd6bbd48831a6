"""Rows in every form that Python code has them, and one line for what is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch
from torch.utils.data import Dataset, IterableDataset, TensorDataset

import fedmtl
from fedmtl import FedMTLError

TASKS = {"age": fedmtl.regression()}
ONE_ROUND = {"training.num_rounds": 1}


def numbers(seed: int = 1) -> tuple[Any, Any]:
    x = np.random.Generator(np.random.PCG64(seed)).normal(size=(40, 4)).astype(np.float32)
    return x, (40 + 10 * x[:, 2]).astype(np.float64)


def trained(*given: Any, run_dir: Path | None = None) -> str:
    sites = {f"site-{number}": {"age": rows} for number, rows in enumerate(given)}
    return fedmtl.simulate(TASKS, sites, {"mlp": {"hidden": [8]}}, ONE_ROUND, run_dir).report.model_digest


class Pairs(Dataset[Any]):
    def __init__(self, x: Any, y: Any) -> None:
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, number: int) -> Any:
        return self.x[number], float(self.y[number])


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter([])


def test_arrays_tensors_datasets_lists_and_tables_are_the_same_rows() -> None:
    x, y = numbers()
    tensors = torch.from_numpy(x).requires_grad_(), torch.from_numpy(y)
    forms = [
        (x, y),
        tensors,
        TensorDataset(tensors[0].detach(), tensors[1]),
        Pairs(x, y),
        (x.tolist(), y.tolist()),
        ([*tensors[0].detach()], y),
    ]
    assert len({trained(form) for form in forms}) == 1
    halves = (x[:30], y[:30], x[30:], y[30:])
    assert trained(halves) == trained((Pairs(x[:30], y[:30]), Pairs(x[30:], y[30:])))


def test_columns_of_tables_are_matched_by_name() -> None:
    x, y = numbers()
    frame = pandas.DataFrame(x, columns=["a", "b", "c", "d"])
    other = pandas.DataFrame(numbers(2)[0], columns=["a", "b", "c", "d"])
    assert trained((frame, pandas.Series(y)), (other, y)) == trained((x, y), (other.to_numpy(), y))
    assert trained((frame, y), (other[["d", "c", "b", "a"]], y)) == trained((frame, y), (other, y))
    with pytest.raises(FedMTLError, match="site-1, task age: columns are a, b, c, elsewhere a, b, c, d; name them"):
        trained((frame, y), (other[["a", "b", "c"]], y))
    with pytest.raises(FedMTLError, match="site site-0, task age: column 'b' holds no numbers; give numbers"):
        trained((frame.assign(b="x"), y))


X, Y = numbers()
SPOILED = np.where(np.arange(160).reshape(40, 4) == 6, np.nan, X)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ((X, Y[:3]), "site site-0, task age: 40 rows and 3 labels; give one label for each row"),
        ((SPOILED, Y), "site site-0, row 2, feature 3: nan is not a finite float32; mend or remove the row"),
        ((X.astype(str), Y), "site site-0, task age: rows are of type <U.*; give numbers"),
        ((X, np.where(np.arange(40) == 3, np.nan, Y)), "site site-0, row .*, task age: .*nan"),
        (([[1.0, 2.0], [3.0]], [1.0, 2.0]), "site site-0, task age: rows make no array .*; give rows of one shape"),
        ((X[0, 0], Y), "site site-0, task age: float32 has no rows; give arrays or lists"),
        (Stream(), "site site-0, task age: an IterableDataset has no rows by number; give"),
        (Pairs(X, []), r"the Dataset does not give pairs \(row, label\) by number \(IndexError: .*; mend it"),
        (X, r"site site-0, task age: give \(x, y\), \(x, y, x_validation, y_validation\), or a torch Dataset"),
    ],
    ids=["lengths", "nan", "texts", "label", "ragged", "scalar", "stream", "broken", "bare"],
)
def test_what_is_no_rows_is_one_line(rows: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(FedMTLError, match=said) as caught:
        trained(rows, run_dir=tmp_path / "run")
    assert "\n" not in caught.value.message and not (tmp_path / "run").exists()
