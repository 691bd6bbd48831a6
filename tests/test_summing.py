"""Answers that enter sums: their numbers by hand, what they tell, and what a client asks of the other side."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from client.app import load_data, local_definitions
from client.jobs.job import Job, JobResult, run_job
from client.jobs.local_client import Computing, local_client
from client.jobs.summing import layouts_of, summed, trained_cells
from client.jobs.synchronizer import ClientModelSynchronizer, PayloadMemory
from client.limits import Limits
from client.training.loop import TrainingDiverged
from client.training.work import ClientState
from common.bodies import RING, Body, Evaluate, Probe, RowNoise, Train
from common.errors import ConfigError, WireError
from common.orders import Order, TaskResult, Update
from common.parameters.schema import ParameterSchema
from common.secure.counts import numbers_of
from common.secure.layout import COUNTS
from common.secure.ring import COUNT_BITS, quantise, quantise_counts
from common.secure.terms import Circle, SumCell, SumOrder, SumPart, SumTerms
from common.stages import Keys, Shares
from common.targets import TargetSums
from tests.core_cases import SETTINGS
from tests.federations import array_config, federate
from tests.sum_cases import TERMS, cells, plain, sum_order

BY_TASK = Circle("0", (SumCell("shared", "a"), SumCell("shared", "b"), SumCell("task/a")), (), 3, 10)
SMALL = {"shared": ParameterSchema.of({"w": (2,)}), "task/a": ParameterSchema.of({"h": (1,)})}


def answer(circle: Circle, shared: list[float], rows: dict[str, int], **said: Any) -> dict[str, list[int]]:
    """The cells of an answer as whole numbers; heads change by 0.25."""
    sums = replace(SumOrder(replace(TERMS, largest_weight=50), 1, (SumPart(circle),)), **said)
    order = replace(sum_order("ann", sums), tasks=("a", "b"))
    order = replace(order, scopes=tuple(replace(order.scopes[0], scope=name) for name in SMALL))
    results = tuple(TaskResult(task, n, None, None) for task, n in rows.items())
    deltas = {"shared": np.array(shared, np.float32), "task/a": np.array([0.25], np.float32)}
    deltas = {name: delta for name, delta in deltas.items() if name in trained_cells(sums, results)}
    layouts = layouts_of(order, sums, SMALL, [])
    update = summed(order, layouts, results, deltas, [], PayloadMemory())
    header = update.header
    assert (header.codec, header.results, header.seconds) == (RING, (), 0.0)
    assert [(s.scope, s.base_version, s.nbytes) for s in header.scopes] == [("sum/0", 6, update.nbytes)]
    (found,) = cells(update, layouts)
    weights = (found.pop(COUNTS) >> np.uint64(COUNT_BITS)).tolist()
    return {COUNTS: weights, **{name: cell.view(np.int32).tolist() for name, cell in found.items()}}


def test_numbers_are_those_of_paper_and_pencil() -> None:
    assert answer(BY_TASK, [0.5, -0.125], {"a": 3, "b": 80}) == {
        COUNTS: [3, 50, 3],  # no more rows than the largest weight
        "shared (a)": [3 * 512, -3 * 128],
        "shared (b)": [50 * 512, -50 * 128],
        "task/a": [3 * 256],
    }
    together = replace(BY_TASK, cells=(SumCell("shared"), SumCell("task/a")))
    found = answer(together, [0.5, -0.125], {"a": 3, "b": 80}, factors=(("a", 2), ("b", 1)), caps=(("b", 7),))
    assert found == {COUNTS: [13, 3], "shared": [13 * 512, -13 * 128], "task/a": [3 * 256]}
    found = answer(together, [0.5, -0.125], {"a": 3, "b": 80}, one_each=True)
    assert found == {COUNTS: [1, 1], "shared": [512, -128], "task/a": [256]}


def test_a_task_without_rows_weighs_nothing_and_asks_for_no_change() -> None:
    assert answer(BY_TASK, [0.5, 0.5], {"a": 0, "b": 2}) == {
        COUNTS: [0, 2, 0],
        "shared (a)": [0, 0],
        "shared (b)": [1024, 1024],
        "task/a": [0],
    }
    idle = answer(BY_TASK, [np.nan, 1.0], {"a": 0, "b": 0})
    assert {value for cell in idle.values() for value in cell} == {0}


def test_a_long_update_is_shortened_as_a_whole_and_only_this_client_hears_of_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    assert answer(BY_TASK, [1.0, -0.5], {"a": 2, "b": 0}) == {
        COUNTS: [2, 0, 2],
        "shared (a)": [2 * 512, -2 * 256],
        "shared (b)": [0, 0],
        "task/a": [2 * 128],
    }
    assert caplog.text.count("secure_aggregation.largest_change (0.5)") == 1 and "0.5 of its length" in caplog.text


def test_numbers_that_are_none_and_cells_that_are_none_are_refused() -> None:
    with pytest.raises(TrainingDiverged, match="not of finite numbers"):
        answer(BY_TASK, [np.nan, 0.0], {"a": 1, "b": 1})
    with pytest.raises(WireError, match="does not fit"):
        answer(replace(BY_TASK, bits=30), [0.1, 0.1], {"a": 9, "b": 9})
    for cell, why in ((SumCell("shared"), "comes twice"), (SumCell("task/b"), "is of no scope of the order")):
        with pytest.raises(WireError, match=why):
            answer(replace(BY_TASK, cells=(SumCell("shared"), cell)), [0.1, 0.1], {"a": 1, "b": 1})
    with pytest.raises(WireError, match="counts task 'c', which is none"):
        answer(replace(BY_TASK, tasks=("c",)), [0.1, 0.1], {"a": 1, "b": 1})


def test_an_answer_to_score_has_counts_alone() -> None:
    circle = Circle("0", (), (), 4, 10)
    order = sum_order("ann", SumOrder(TERMS, 1, (SumPart(circle),)), scoring=True)
    update, (layout,) = plain(order, "ann")
    assert (layout.nbytes, update.nbytes, update.header.scopes[0].scope) == (0, 0, "sum/0")


def order_of(body: Body) -> Order:
    return Order("order-1", 1, 0, (), 60.0, body)


def trains(terms: SumTerms | None) -> Order:
    return order_of(Train(SETTINGS, 1, RING, sums=None if terms is None else SumOrder(terms, 1, ())))


@pytest.mark.parametrize(
    ("order", "why"),
    [
        (trains(None), "asks for training outside of sums"),
        (order_of(Evaluate(SETTINGS, 1)), "asks for scoring outside of sums"),
        (order_of(Probe((), "train", 8, 1)), "asks for comparing outside of sums"),
        (trains(replace(TERMS, min_clients=2)), "has min_clients: 2, below 3"),
        (trains(replace(TERMS, masks=False)), "asks for sums without masks"),
        (trains(replace(TERMS, largest_change=1.0)), "has largest_change: 1.0, not 0.5"),
        (trains(replace(TERMS, largest_weight=1)), "has largest_weight: 1, not 100"),
        (trains(replace(TERMS, pinned=True)), "has pinned: true, not false"),
        (order_of(Keys(1, False, replace(TERMS, corrupt=0.0), ())), "has corrupt: 0.0, not 0.1"),
    ],
)
def test_a_client_asks_for_its_own_terms_at_least(order: Order, why: str) -> None:
    with pytest.raises(ConfigError, match=f"^secure_aggregation: order order-1 of the coordinator {why}, .*both sides"):
        Limits(sums=TERMS).check_order(order)
    Limits().check_order(order)


def test_terms_that_hide_more_are_welcome() -> None:
    for order in (trains(TERMS), trains(replace(TERMS, min_clients=9)), order_of(Shares(1, False, ()))):
        Limits(sums=TERMS).check_order(order)
    Limits(sums=replace(TERMS, masks=False)).check_order(trains(TERMS))
    noise = RowNoise(1.0, 1e-5, 10, noise_multiplier=1.0)
    Limits(sums=TERMS, row_noise=noise, keeps_scores=True).check_order(order_of(Shares(1, False, ())))


NUMBERS = "tasks={n: {type: regression, train_samples: 20, val_samples: 10}}"


@pytest.mark.parametrize("kind", ["", NUMBERS])
def test_a_client_with_sums_does_not_say_how_many_rows_it_has(kind: str) -> None:
    config = array_config(*filter(None, [kind]), tasks=("a0",))
    name = next(iter(config.tasks))
    definitions = local_definitions(config, [name])
    data, device = load_data(config, definitions), torch.device("cpu")
    told = local_client("a", definitions, data, device, computing=Computing(limits=Limits(sums=TERMS))).request
    assert told.examples == ((name, 1),) and told.validation == ((name, 1),) and told.inputs == ()
    assert told.targets == (((name, TargetSums(0.0, 0.0)),) if kind else ())
    plain_one = local_client("a", definitions, data, device).request
    assert dict(plain_one.examples)[name] > 1


def test_what_is_trained_and_scored_enters_sums_and_the_client_keeps_its_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = array_config("federation.min_clients=1", "training.num_rounds=1", tasks=("a0",))
    terms, seen = replace(TERMS, masks=False, largest_change=8.0), []

    def both(job: Job, replica: ClientModelSynchronizer, state: ClientState) -> JobResult:
        """The order as it is, and as one whose answer enters sums."""
        result, order, trains = run_job(job, replica, state), job.order, isinstance(job.order.body, Train)
        kept = bytes(result.answer.payload)
        cells_of_order = tuple(SumCell(wanted.scope) for wanted in order.scopes) if trains else ()
        sums = SumOrder(terms, 1, (SumPart(Circle("0", cells_of_order, ("a0",), 3, 14)),))
        codec = {"codec": RING} if trains else {}
        body = replace(order.body, sums=sums, **codec)  # type: ignore[call-arg]
        entering = run_job(replace(job, order=replace(order, body=body)), replica, state)
        assert isinstance(entering.answer, Update) and entering.answer.header.results == ()
        assert entering.results == result.results == result.answer.head.results
        tasks = [item.task for item in job.examples.whole]
        layouts = layouts_of(replace(order, body=body), sums, replica.schemas, tasks)
        (found,) = cells(entering.answer, layouts)
        rows, at = result.results[0].examples, 0
        numbers = numbers_of(tasks[0], result.results[0])
        assert found[COUNTS].tolist() == quantise_counts([float(rows)] * len(cells_of_order) + numbers, 3).tolist()
        for cell in cells_of_order:
            delta = np.frombuffer(kept, np.float32, replica.schemas[cell.scope].size, at)
            at += delta.nbytes
            assert np.array_equal(found[cell.name], quantise(delta, rows, 14, 8.0)) and delta.any()
        seen.append(order.body.activity)
        answer = Update(result.answer.header, kept) if isinstance(result.answer, Update) else result.answer
        return replace(result, answer=answer)

    monkeypatch.setattr("client.jobs.executor.run_job", both)
    asyncio.run(federate(config, tmp_path, (("a", ("a0",), "1/1"),)))
    assert seen == ["training", "scoring"]
