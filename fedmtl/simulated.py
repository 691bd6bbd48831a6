"""A federation in this process, from rows that Python code has."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from fedmtl.background import completed
from fedmtl.configured import EncoderChoice, Settings, Tasks, configuration
from fedmtl.rows import Sites, read, row_shape, unpacked
from fedmtl.run import FinishedRun
from simulation.app import simulate as run_simulation
from simulation.population import VirtualClient


def simulate(
    tasks: Tasks,
    sites: Sites,
    encoder: EncoderChoice,
    settings: Settings | None = None,
    run_dir: str | Path | None = None,
) -> FinishedRun:
    """Train one model for several tasks whose rows lie at several sites, and wait for it.

    Args:
        tasks: name -> `classification(...)`, `regression(...)` or another task's section.
        sites: name -> task -> (x, y), or (x, y, x_validation, y_validation), or one or two torch Datasets of pairs. x
            are arrays, tensors or DataFrames (rows, ...) of the encoder's shape, for `tabular` also {column: list}, or
            texts, or lists of words; of (x, y), every fourth row is for validation. Where a task has no labels, y is x.
        encoder: an instance of any torch module from a batch of rows to vectors (rows, hidden), whose values are the
            initial ones, and which is not changed; `module(Net, width=64)`, which starts from the run's seed and works
            between processes; one of ours, such as {"mlp": {"hidden": [64]}}; or for texts the name or the folder of
            a model, such as "prajjwal1/bert-tiny". The shape of rows is taken from the first site's.
        settings: any other keys of the configuration, such as {"training.num_rounds": 5}. "aggregation.robust" may be a
            function `rule(updates, weights)` of yours: from client -> parameter -> its change (read-only arrays), and
            client -> rows (with `aggregation.weights: uniform`: 1), to parameter -> step. It is called for each scope.
        run_dir: folder of the run, new or empty; None: a temporary one.

    Raises:
        FedMTLError: what is wrong, in a line for each problem.
    """
    parts = unpacked(tasks, sites)
    with folder_for(run_dir) as folder:
        places = {"run.run_dir": str(folder), "simulation.clients": len(parts), "model.keep.best": "mean"}
        config = configuration(tasks, encoder, row_shape(parts), {**places, **(settings or {})}, "simulate")
        clients = [VirtualClient(site, dict.fromkeys(rows, (1, 1))) for site, rows in parts.items()]
        rows = {site: read(config, site, given) for site, given in parts.items()}
        with own_threads():
            report = completed(run_simulation(config, False, None, clients, rows))
    return FinishedRun(folder, report)


@contextmanager
def folder_for(run_dir: str | Path | None) -> Iterator[Path]:
    """The folder of runs; a temporary one is gone again if nothing came into it."""
    if run_dir is not None:
        yield Path(run_dir)
        return
    folder = Path(tempfile.mkdtemp(prefix="fedmtl-"))
    try:
        yield folder
    finally:
        if not any(folder.iterdir()):
            folder.rmdir()


@contextmanager
def own_threads() -> Iterator[None]:
    """Give torch back as many threads as it had, whatever a run sets."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
