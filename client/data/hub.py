"""Tables from the Hugging Face hub's `glue`; the package `datasets` is imported only when asked for."""

from __future__ import annotations

from client.data.columns import Table
from client.data.files import OFFICIAL_FOLDERS
from common.errors import DataError, foreign_errors


def read_glue(task: str, split: str) -> Table:
    """The train or validation split of a GLUE task; the test split has no labels and is never read.

    Raises:
        DataError: The task is not in GLUE, `datasets` is not installed, or the hub did not answer.
    """
    if task not in OFFICIAL_FOLDERS:
        raise DataError(f"task {task} is not in GLUE; choose one of {', '.join(OFFICIAL_FOLDERS)} or use files")
    try:
        from datasets import load_dataset
    except ImportError:
        raise DataError("data source glue needs the package datasets; install the extra 'hub' or use files") from None
    part = "validation_matched" if (task, split) == ("mnli", "validation") else split

    def unreachable(error: Exception) -> DataError:
        return DataError(
            f"glue/{task} could not be loaded from the Hugging Face hub ({type(error).__name__}); "
            "check the network or use files"
        )

    with foreign_errors(unreachable):
        rows = load_dataset("glue", task, split=part)
        columns = {name: list(rows[name]) for name in rows.column_names}
    return Table(f"glue/{task} {part}", columns, published=True)
