"""By what rows of numbers are standardised: pooled when the first round with the task opens, then fixed for the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from common.orders import JoinRequest
from common.standardising import LEAST_ROWS, pooled_scale
from server.core.effects import Notice, ScaleFixed
from server.core.state import ClientRecord, FederationState, RunSettings
from server.core.weighing import cap_of

MOST_COLUMNS_TOLD = 10


def inputs_problem(run: RunSettings, request: JoinRequest) -> str | None:
    """What is wrong with what a client says of the numbers in its training rows, or None."""
    said, rows = dict(request.inputs), dict(request.examples)
    for task in request.tasks:
        if (task.name in said) != bool(run.scaled):
            ours, theirs = ("federation", "another") if run.scaled else ("another", "federation")
            return f"task '{task.name}': data.statistics is {ours} at the coordinator and {theirs} here; write the same"
        if run.scaled and (problem := said[task.name].problem(run.scaled, rows.get(task.name, 0))):
            return f"task '{task.name}': {problem}; use the same FedMTL and the same encoder on both sides"
    return None


def with_scales(
    run: RunSettings, state: FederationState, present: Sequence[ClientRecord]
) -> tuple[FederationState, tuple[ScaleFixed, ...], list[Notice]]:
    """The state with a scale for every task that somebody present holds, the records of new ones, and what to say.

    Sums are those of all clients that are present, each with the examples that count (`aggregation.max_examples`).
    """
    records: list[ScaleFixed] = []
    notices: list[Notice] = []
    for task in (task.name for task in run.tasks if run.scaled and task.name not in state.scales):
        clients = [m for m in present if task in m.inputs and m.examples.get(task)]
        if not clients:
            continue
        cap = cap_of(run, [m.examples[task] for m in clients])
        shares = (1.0 if cap is None else min(1.0, cap / m.examples[task]) for m in clients)
        scale, silent = pooled_scale([(m.inputs[task], share) for m, share in zip(clients, shares, strict=True)])
        records.append(ScaleFixed(task, scale))
        notices.append(Notice(f"task {task}: its rows are standardised by those of {len(clients)} clients"))
        if quantities := [place for place in silent if place not in run.categories]:
            named = ", ".join(str(place + 1) for place in quantities[:MOST_COLUMNS_TOLD])
            text = f"no client has {LEAST_ROWS} rows with a value in column {named}, so these stay as they are"
            notices.append(Notice(f"task {task}: {text}", warning=True))
    scales = {**state.scales, **{record.task: record.scale for record in records}}
    return replace(state, scales=scales), tuple(records), notices
