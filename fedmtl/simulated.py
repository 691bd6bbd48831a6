"""A federation in this process, from rows that Python code has."""

from __future__ import annotations

import asyncio
import tempfile
import threading
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from client.app import data_request
from client.data.examples import TaskData
from client.data.given import read_given
from client.data.sources import finished
from common.config import Config, load_config
from common.encoders.table import ENCODERS
from common.errors import ConfigError, DataError
from common.names import RULE, is_id
from fedmtl.run import FinishedRun
from simulation.app import simulate as run_simulation
from simulation.population import VirtualClient

T = TypeVar("T")
Sites = Mapping[str, Mapping[str, Sequence[Any]]]

READS = {1: "numbers", 2: "sequences", 3: "images"}
"""What rows of so many dimensions are taken for."""


def simulate(
    tasks: Mapping[str, Mapping[str, object]],
    sites: Sites,
    encoder: str | Mapping[str, Mapping[str, object]],
    settings: Mapping[str, object] | None = None,
    run_dir: str | Path | None = None,
) -> FinishedRun:
    """Train one model for several tasks whose rows lie at several sites, and wait for it.

    Args:
        tasks: name -> `classification(...)`, `regression(...)` or another task's section.
        sites: name -> task -> (x, y), or (x, y, x_validation, y_validation). x are arrays or tensors (rows, ...) of the
            encoder's shape, or texts; of (x, y), every fourth row is for validation.
        encoder: `module(Net, width=64)`; one of ours, such as {"mlp": {"hidden": [64]}}; or for texts the name or the
            folder of a model, such as "prajjwal1/bert-tiny". The shape of rows is taken from the first site's.
        settings: any other keys of the configuration, such as {"training.num_rounds": 5}.
        run_dir: folder of the run, new or empty; None: a temporary one.

    Raises:
        FedMTLError: what is wrong, in a line for each problem.
    """
    folder = tempfile.mkdtemp(prefix="fedmtl-") if run_dir is None else str(run_dir)
    config = _configuration(tasks, sites, encoder, {"run.run_dir": folder, **(settings or {})})
    config.model.allow_encoder()
    clients = [VirtualClient(site, dict.fromkeys(rows, (1, 1))) for site, rows in sites.items()]
    rows = {site: {task: _rows(config, site, task, given[task]) for task in given} for site, given in sites.items()}
    threads = torch.get_num_threads()
    try:
        report = completed(run_simulation(config, False, None, clients, rows))
    finally:
        torch.set_num_threads(threads)
    return FinishedRun(Path(folder), report)


def _configuration(
    tasks: Mapping[str, Mapping[str, object]],
    sites: Sites,
    encoder: str | Mapping[str, Mapping[str, object]],
    settings: Mapping[str, object],
) -> Config:
    _require_sites(tasks, sites)
    given: dict[str, object] = {"tasks": {name: dict(keys) for name, keys in tasks.items()}, "data.source": "given"}
    given["simulation.clients"] = len(sites)
    if isinstance(encoder, str):
        given["model.server_model"] = encoder
    else:
        if not isinstance(encoder, Mapping) or len(encoder) != 1 or not {*encoder} <= {*ENCODERS}:
            said = sorted(encoder) if isinstance(encoder, Mapping) else f"of class {type(encoder).__name__}"
            own = "or for your own class Net: fedmtl.module(Net, width=64)"
            raise ConfigError(f"encoder: {said}; write one of {', '.join(ENCODERS)} with its parameters, {own}")
        [(name, parameters)] = encoder.items()
        given |= {"model.server_model": name, f"model.{name}": _fitted(name, parameters, _first_shape(sites))}
    return load_config(None, role="simulate", given=given | dict(settings))


def _require_sites(tasks: Mapping[str, Mapping[str, object]], sites: Sites) -> None:
    for site, rows in sites.items():
        if not is_id(site):
            raise ConfigError(f"sites: '{site}' must be {RULE}")
        if not rows or not rows.keys() <= tasks.keys():
            raise ConfigError(f"sites: {site} has rows of {sorted(rows) or 'no task'}; tasks are {', '.join(tasks)}")
        for task, values in rows.items():
            if not isinstance(values, tuple | list) or len(values) not in (2, 4):
                raise DataError(f"site {site}, task {task}: give (x, y), or (x, y, x_validation, y_validation)")
    without = [task for task in tasks if not any(task in rows for rows in sites.values())]
    if without or not tasks:
        raise ConfigError(f"sites: none has rows of {without[0] if without else 'any task'}; give some")


def _first_shape(sites: Sites) -> tuple[int, ...]:
    """The shape of a row."""
    values = next(values for rows in sites.values() for values in rows.values())
    return np.shape(values[0])[1:]


def _fitted(name: str, parameters: Mapping[str, object], shape: tuple[int, ...]) -> dict[str, object]:
    """An encoder's parameters, with the shape of rows where they do not say it."""
    if "parts" in parameters:
        return dict(parameters)
    if name == "mlp":
        return {"features": int(np.prod(shape)), **parameters}
    read = {"reads": READS.get(len(shape), "numbers")} if name == "module" else {}
    return {"shape": [*shape], **read, **parameters}


def _rows(config: Config, site: str, task: str, values: Sequence[Any]) -> TaskData:
    """One site's rows of a task, ready to train on."""
    request = data_request(config, config.tasks[task].definition(task))
    return finished(read_given(request, site, values), request)


def completed(work: Coroutine[Any, Any, T]) -> T:
    """What a coroutine gives, also where a loop runs already, as in a notebook; an interruption ends it."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    # Loop and task are there before the thread is, so that whatever ends the wait finds something to cancel.
    loop = asyncio.new_event_loop()
    task = loop.create_task(work)
    ended = threading.Event()  # a join that is interrupted takes the thread for ended (Python 3.11)

    def carry_out() -> None:
        try:
            loop.run_until_complete(asyncio.wait([task]))
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.run_until_complete(loop.shutdown_default_executor())
        finally:
            ended.set()

    thread = threading.Thread(target=carry_out)
    try:
        thread.start()
        ended.wait()
    finally:
        loop.call_soon_threadsafe(task.cancel)
        if thread.ident is not None:
            ended.wait()
        loop.close()
    return task.result()
