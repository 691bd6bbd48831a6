"""The units of heads and losses: pooled when the first round with the task opens, then fixed for the run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import fsum

from common.orders import JoinRequest
from common.targets import TargetSums, TargetUnits, coarse, pooled
from common.tasks import TaskDefinition
from server.core.effects import Notice, UnitsFixed
from server.core.state import ClientRecord, FederationState, RunSettings
from server.core.weighing import cap_of

FAR = 4.0
"""Units that an earlier run fixed are far from today's scores by more than so many of them."""
MOST_LABELS = 10
"""Weights of so many labels are told."""


def targets_problem(request: JoinRequest) -> str | None:
    """What is wrong with what a client says of its training targets, or None."""
    rows, sums = dict(request.examples), dict(request.targets)
    for task in [task for task in request.tasks if task.tells_sums]:
        if task.name not in sums:
            what = "mean and spread of its scores" if task.type.has_units else "counts of its labels"
            return f"task '{task.name}': {what} are missing; use the same FedMTL on both sides"
        if not task.type.sums_fit(task, sums[task.name], rows.get(task.name, 0)):
            if task.type.has_units:
                return f"task '{task.name}': its scores cannot have {sums[task.name]}; use another unit for them"
            return f"task '{task.name}': its counts of labels are not those of {rows.get(task.name, 0)} training rows"
    return None


def with_units(
    run: RunSettings, state: FederationState, present: Sequence[ClientRecord]
) -> tuple[FederationState, tuple[UnitsFixed, ...], list[Notice]]:
    """The state with units for every task that somebody present holds, the records of new ones, and what to say.

    Tasks whose rows count alike and whose targets are no numbers need none. Under noise numbers have none either, since
    units made of clients' scores would be published without it; nor in masked sums, since clients say nothing of their
    scores. Weights of labels that are given are fixed as they are. Sums are those of all clients that are present,
    whether or not they are chosen for the round, each with the examples that count (`aggregation.max_examples`).
    """
    records: list[UnitsFixed] = []
    notices: list[Notice] = []
    begins = state.completed_rounds == 0 and state.attempt == 1
    for task in run.tasks:
        fixed = state.units.get(task.name)
        if fixed is not None and not (begins and task.type.has_units):
            continue
        if task.type.has_units and (run.noise is not None or run.sums is not None):
            continue
        if isinstance(task.class_weights, tuple):
            records.append(UnitsFixed(task.name, TargetUnits(weights=task.class_weights)))
            continue
        parts = [
            (m.examples[task.name], m.targets[task.name])
            for m in present
            if task.name in m.targets and m.examples.get(task.name)
        ]
        if not parts:
            continue
        parts = _capped(parts, cap_of(run, [count for count, _ in parts]))
        if not task.type.has_units:
            records.append(UnitsFixed(task.name, TargetUnits(weights=_balanced(task, parts))))
            notices += _weights_told(task, records[-1].units, parts)
            continue
        mean, deviation = pooled(parts)
        if fixed is None:
            records.append(UnitsFixed(task.name, coarse(mean, deviation)))
            notices += _told(records[-1], deviation)
        elif not _near(fixed, mean, deviation):
            text = f"is trained in the units of the run it starts from, {_words(fixed)}, far from its scores here"
            notices.append(Notice(f"task {task.name} {text}; leave model.warm_start out or rename it", warning=True))
    units = {**state.units, **{record.task: record.units for record in records}}
    return replace(state, units=units), tuple(records), notices


def _capped(parts: Sequence[tuple[int, TargetSums]], cap: int | None) -> list[tuple[int, TargetSums]]:
    """The sums with the examples that count: nobody moves the units by rows that its updates would not count with."""
    found = []
    for count, sums in parts:
        counts = count if cap is None else min(count, cap)
        kept = tuple(rows * counts / count for rows in sums.counts)
        found.append((counts, replace(sums, squares=sums.squares * counts / count, counts=kept)))
    return found


def _label_rows(parts: Sequence[tuple[int, TargetSums]]) -> tuple[float, ...]:
    """How many rows have each label, the same in any order of the parts."""
    return tuple(map(fsum, zip(*(sums.counts for _, sums in parts), strict=True)))


def _balanced(task: TaskDefinition, parts: Sequence[tuple[int, TargetSums]]) -> tuple[float, ...]:
    return task.type.balanced_weights(_label_rows(parts), sum(count for count, _ in parts))


def _weights_told(
    task: TaskDefinition, units: TargetUnits, parts: Sequence[tuple[int, TargetSums]]
) -> Iterator[Notice]:
    pairs = list(zip(task.labels, units.weights or (), strict=True))
    said = ", ".join(f"{label} {weight:.4g}" for label, weight in pairs[:MOST_LABELS])
    more = ", ..." if len(pairs) > MOST_LABELS else ""
    yield Notice(f"task {task.name}: the loss of a row counts by its label: {said}{more}")
    if note := task.rare_label(_label_rows(parts), sum(count for count, _ in parts)):
        yield Notice(f"task {task.name}: {note}", warning=True)


def _near(units: TargetUnits, mean: float, deviation: float) -> bool:
    wide = deviation == 0.0 or 1 / FAR <= deviation / units.scale <= FAR
    return wide and abs(mean - units.mean) <= FAR * units.scale


def _told(record: UnitsFixed, deviation: float) -> list[Notice]:
    if deviation == 0.0:
        text = "all training scores of the clients that are here are the same, so there is nothing to learn"
        return [Notice(f"task {record.task}: {text}", warning=True)]
    return [Notice(f"task {record.task}: its head works in {_words(record.units)}; loss is in these units")]


def _words(units: TargetUnits) -> str:
    return f"units of {units.scale:g} around {units.mean:g}"
