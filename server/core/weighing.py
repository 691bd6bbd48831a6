"""What an update weighs in each scope, and what share of the step that gives its client. Counts stay integers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from math import floor
from statistics import median

from common.orders import TaskResult
from common.parameters.capacity import untrained_scopes
from common.parameters.scope import Scope, is_sum
from common.secure.terms import TASK_WEIGHT_UNIT
from server.core.open_round import OpenOrder, OpenRound, OrderState
from server.core.state import ClientRecord, RunSettings


def caps_of(run: RunSettings, clients: Mapping[str, ClientRecord], orders: Iterable[OpenOrder]) -> Mapping[str, int]:
    """Task -> most examples that a client counts with in a round; tasks without a cap are not in it.

    A cap in medians is of what the clients that were asked for the task joined with.
    """
    held: dict[str, list[int]] = {}
    for order in orders:
        for task in order.tasks:
            held.setdefault(task, []).append(clients[order.client_id].examples.get(task, 0))
    if run.max_medians is None:
        return {task.name: most for task in run.tasks if (most := cap_of(run, ())) is not None}
    return {task: cap for task, counts in sorted(held.items()) if (cap := cap_of(run, counts)) is not None}


def cap_of(run: RunSettings, counts: Sequence[int]) -> int | None:
    """The most examples of a task that a client counts with, beside clients with so many; None without a cap."""
    if run.max_medians is None:
        return run.max_examples
    return max(1, floor(run.max_medians * median(counts)))


def capped(results: Iterable[TaskResult], caps: Mapping[str, int]) -> tuple[TaskResult, ...]:
    """The results with the examples that count; from here on nothing knows of more."""
    return tuple(replace(r, examples=min(r.examples, caps[r.task])) if r.task in caps else r for r in results)


def scope_weights(run: RunSettings, order: OpenOrder, results: Iterable[TaskResult]) -> Mapping[str, int]:
    """Integer weight of an update in each scope's mean (FedAvg, McMahan et al. 2017).

    Heads weigh the client's examples of their task. Everything else weighs its examples of all its tasks, each times
    the task's weight; where all task weights are 1 these are plain example counts. With `one_each` every update that
    brings examples weighs 1. Changes of sums over clients are added up as they are. Where a mean is over those who
    read a scope, an update weighs 0 if none of the tasks that were trained does.
    """
    plain = all(task.weight == 1.0 for task in run.tasks)
    unit = 1 if plain else TASK_WEIGHT_UNIT
    definitions = {task.name: task for task in run.tasks}
    examples = {result.task: result.examples for result in results}
    everything = sum(round(definitions[task].weight * unit) * count for task, count in examples.items())
    scopes = [Scope.parse(scope.scope) for scope in order.trained]
    weights = {str(scope): examples[scope.task] if scope.task else everything for scope in scopes}
    tasks = [task for task, count in examples.items() if count]
    weights = {scope: weight if run.reads(scope, tasks) else 0 for scope, weight in weights.items()}
    if run.one_each:
        weights = {scope: min(weight, 1) for scope, weight in weights.items()}
    return weights | {name: 1 for name in weights if is_sum(name)}


def variates_of(run: RunSettings, clients: Mapping[str, ClientRecord]) -> Mapping[str, int]:
    """Scope -> how many clients may train it, whether they are here or not: its control is a sum over these."""
    if not run.training.procedure.has_controls:
        return {}
    return Counter(
        scope
        for client in clients.values()
        for untrained in [untrained_scopes(client.capabilities.capacity, run.blocks)]
        for scope in run.scopes_of(client, client.tasks)
        if Scope.parse(scope).template not in untrained
    )


def task_rows(run: RunSettings, order: OpenOrder, results: Iterable[TaskResult]) -> Mapping[str, Mapping[str, int]]:
    """Scope -> task -> examples with which an update enters that task's own sum; empty without `by_task`.

    A client with several tasks enters each task's sum with that task's examples. Scopes of one task or member are not
    in the result: they have one sum in any case.
    """
    if not run.by_task:
        return {}
    examples = {result.task: result.examples for result in results if result.examples}
    shared = [str(s) for s in (Scope.parse(scope.scope) for scope in order.trained) if not (s.task or s.is_member)]
    return {scope: {task: n for task, n in examples.items() if run.reads(scope, (task,))} for scope in shared}


Shares = Mapping[str, Mapping[str, float]]
"""Scope, or `<scope> (<task>)` where it is summed by task -> client -> its share of that sum, in all 1."""


def step_shares(run: RunSettings, round_: OpenRound, scopes: Iterable[str]) -> Shares:
    """What share of the steps of these scopes came from which client, by weights; members' own scopes are left out."""
    accepted = [order for _, order in sorted(round_.orders.items()) if order.state is OrderState.ACCEPTED]
    shared = {str(scope) for scope in map(Scope.parse, scopes) if not (scope.is_member or scope.is_derived)}
    weights: dict[str, dict[str, int]] = {}
    for order in accepted:
        rows = task_rows(run, order, order.results)
        for scope in shared.intersection(order.weights):
            by_task = {f"{scope} ({task})": count for task, count in rows.get(scope, {}).items()}
            for label, weight in (by_task if scope in rows else {scope: order.weights[scope]}).items():
                weights.setdefault(label, {})[order.client_id] = weight
    totals = {label: sum(found.values()) for label, found in sorted(weights.items())}
    return {
        label: {client: weight / total for client, weight in weights[label].items()}
        for label, total in totals.items()
        if total
    }
