"""Tables from data sets of the package `datasets`: from the hub, or saved on this disk. Nothing is ever unpickled."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from client.data.columns import Table
from common.errors import DataError, foreign_errors

SAVED = ("state.json", "dataset_info.json")
"""What a folder holds that `Dataset.save_to_disk` wrote."""


def is_saved(folder: Path) -> bool:
    """Whether `Dataset.save_to_disk` wrote this folder."""
    return all((folder / name).is_file() for name in SAVED)


def read_saved(folder: Path) -> Table:
    """The table of a saved data set.

    Raises:
        DataError: it cannot be read, or `datasets` is not installed.
    """
    package = package_for(str(folder))
    unreadable = DataError(f"{folder} is not a readable data set of the package datasets; save it again")
    with foreign_errors(lambda error: unreadable):
        return table_of(package.Dataset.load_from_disk(str(folder)), str(folder))


def package_for(what: str) -> Any:
    """The package `datasets`.

    Raises:
        DataError: it is not installed.
    """
    try:
        import datasets
    except ImportError:
        raise DataError(f"{what} needs the package datasets; install the extra 'hub' or use files") from None
    return datasets


def table_of(rows: Any, origin: str) -> Table:
    """The columns of a data set: names of classes instead of their numbers, and images as the bytes of their files."""
    rows = rows.with_format(None)
    return Table(origin, {name: _cells(rows, name) for name in rows.column_names})


def _cells(rows: Any, name: str) -> list[object]:
    import datasets

    kind = rows.features[name]
    if isinstance(kind, datasets.Image):
        undecoded = rows.select_columns([name]).cast_column(name, datasets.Image(decode=False))
        return [*map(image_bytes, undecoded[name])]
    for classes in (kind, getattr(kind, "feature", None)):
        if isinstance(classes, datasets.ClassLabel):
            named = _named(classes.names)
            return [[*map(named, cell)] if isinstance(cell, list) else named(cell) for cell in rows[name]]
    # As arrays they keep their type of numbers.
    if hasattr(kind, "shape") or hasattr(getattr(kind, "feature", None), "feature"):
        return [*rows.select_columns([name]).with_format("numpy")[:][name]]
    return [*rows[name]]


def _named(names: list[str]) -> Callable[[Any], object]:
    return lambda number: names[number] if isinstance(number, int) and 0 <= number < len(names) else number


def image_bytes(cell: object) -> object:
    """What a file of an image holds, from a cell as data sets have them; any other cell as it is."""
    if not isinstance(cell, dict) or not {*cell} <= {"bytes", "path"}:
        return cell
    path = cell.get("path")
    if cell.get("bytes") is None and isinstance(path, str) and Path(path).is_file():
        return Path(path).read_bytes()
    return cell.get("bytes")
