"""Grouping by effect: what is offered, when groups move, planted groups, the same bits after kills."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.methods.effect import EffectRelation
from common.methods.relation import CandidateScore, Coupling, Members
from server.reporting.relations import probe_costs
from tests.crashes import Cast, crash_and_recover, prepare_run
from tests.effect_cases import effect_config, groups_after, mean_accuracy, planted, run
from tests.federations import array_config, digest_of
from tests.test_simulation import MIXED, over_grpc, simulated

STEPS = [[1.0, 0.1], [1.0, -0.1], [-1.0, 0.1], [-1.0, -0.1]]
"""Of a, b, c and d: two point one way and two the other."""
EAGER = EffectRelation(every=1, confirm=1)


def told(
    state: Mapping[str, Any] | None = None, scores: Mapping[str, Mapping[str, CandidateScore]] | None = None
) -> Members:
    moves = np.array(STEPS)
    gram = moves @ moves.T
    return Members(tuple("abcd"), np.array([1.0, 1.0, 1.0, 3.0]), gram, gram, 2, scores=scores or {}, state=state or {})


def gained(gain: float, error: float, before: float = 1.0) -> CandidateScore:
    return CandidateScore(100, before - gain, gain, error)


def moved(relation: EffectRelation, gains: Mapping[str, CandidateScore], before: Coupling | None = None) -> Coupling:
    """After a comparison in which every member says the same of candidates of these names, and 0 of others."""
    first = before or relation(told())
    scores = {
        member: {name: gains.get(name, gained(0.0, 0.01)) for name in names}
        for member, names in first.state["offers"].items()
    }
    return relation(told(first.state, scores))


def groups(coupling: Coupling) -> Sequence[Sequence[str]]:
    return sorted(coupling.state["groups"])


def test_members_compare_their_own_copy_and_the_half_of_their_group_whose_steps_agree() -> None:
    first = EAGER(told())
    assert groups(first) == [["a", "b", "c", "d"]]
    assert first.state["offers"] == {
        "a": ["part-0-0", "own-a"],
        "b": ["part-0-0", "own-b"],
        "c": ["part-0-1", "own-c"],
        "d": ["part-0-1", "own-d"],
    }
    rows = {name: row.tolist() for name, row in first.candidates.items()}
    assert rows["part-0-0"] == [0.5, 0.5, 0.0, 0.0] and rows["part-0-1"] == [0.0, 0.0, 0.25, 0.75]
    assert rows["own-b"] == [0.0, 1.0, 0.0, 0.0] and EAGER.offered(first.state, "c") == ["part-0-1", "own-c"]
    assert first.start is not None and first.start.tolist() == [[1 / 6, 1 / 6, 1 / 6, 0.5]] * 4
    assert EffectRelation(every=2)(told()).candidates == {}


def test_a_part_leaves_by_its_own_gain_and_groups_join_where_both_gain() -> None:
    """By inverse variances: two members with +0.1 of a loss of 1, errors 0.05: 0.1 +- 0.0354, 2.8 standard errors."""
    apart = moved(EAGER, {"part-0-0": gained(0.1, 0.05), "part-0-1": gained(-0.3, 0.1)})
    assert groups(apart) == [["a", "b"], ["c", "d"]]
    assert apart.note.startswith("{a, b} parted from {c, d}: +10.00 % of the loss (2.8 standard errors), -30.00 %")
    assert groups(moved(EAGER, {"part-0-0": gained(0.1, 0.08)})) == [["a", "b", "c", "d"]], "1.8 standard errors"
    assert groups(moved(EAGER, {"own-b": gained(0.1, 0.04)})) == [["a", "c", "d"], ["b"]]
    joined = apart.state["offers"]
    assert "join-0-1" in joined["a"] and "join-0-1" in joined["d"]
    assert groups(moved(EAGER, {"join-0-1": gained(0.1, 0.05)}, apart)) == [["a", "b", "c", "d"]]
    one_sided = {m: {n: gained(0.1 if m in "ab" else 0.0, 0.01) for n in names} for m, names in joined.items()}
    assert groups(EAGER(told(apart.state, one_sided))) != [["a", "b", "c", "d"]]


def test_few_rows_decide_nothing_and_a_move_is_confirmed_first() -> None:
    nothing = {
        "part-0-0": CandidateScore(1, 0.1, 0.9, float("inf")),
        "own-a": CandidateScore(0, 0.0, 0.0, float("inf")),
    }
    assert groups(moved(EAGER, nothing)) == [["a", "b", "c", "d"]]
    patient, gains = EffectRelation(every=1, confirm=2), {"part-0-0": gained(0.1, 0.05)}
    once = moved(patient, gains)
    assert groups(once) == [["a", "b", "c", "d"]] and once.note == ""
    assert groups(moved(patient, {}, once)) == [["a", "b", "c", "d"]]
    assert groups(moved(patient, gains, moved(patient, {}, once))) == [["a", "b", "c", "d"]], "not in a row"
    assert groups(moved(patient, gains, once)) == [["a", "b"], ["c", "d"]]


def test_between_comparisons_nothing_moves_and_several_moves_are_made_at_once() -> None:
    rare = EffectRelation(every=3, confirm=1)
    state: Mapping[str, Any] = {}
    for number in range(1, 6):
        found = rare(told(state))
        assert bool(found.candidates) == (number == 3) and groups(found) == [["a", "b", "c", "d"]]
        state = found.state
    apart = moved(EAGER, {"part-0-0": gained(0.1, 0.05)})
    both = moved(EAGER, {"part-0-0": gained(0.1, 0.01), "part-1-1": gained(0.1, 0.01)}, apart)
    assert groups(both) == [["a"], ["b"], ["c"], ["d"]] and both.note.count(" parted from ") == 2


def test_who_begins_apart_is_by_itself_and_pairs_that_failed_come_later() -> None:
    relation = EffectRelation(every=1, confirm=1, begin="apart")
    first = relation(told())
    assert groups(first) == [["a"], ["b"], ["c"], ["d"]]
    pairs = [move[1] for move in first.state["moves"] if move[2][0].startswith("join")]
    assert pairs == [(("a",), ("b",)), (("c",), ("d",))], "those whose steps agree"
    assert "all" in first.state["offers"]["a"]
    again = moved(relation, {"join-2-3": gained(0.2, 0.05)}, first)
    assert groups(again) == [["a"], ["b"], ["c", "d"]] and again.state["failed"]["a|b"] == 1
    pairs = [move[1] for move in again.state["moves"] if move[2][0].startswith("join")]
    assert (("a",), ("b",)) not in pairs
    assert groups(moved(relation, {"all": gained(0.2, 0.05)}, first)) == [["a", "b", "c", "d"]]


@pytest.mark.slow
def test_tasks_of_three_groups_are_found_and_kept_for_50_rounds(tmp_path: Path) -> None:
    tasks = planted(3, 4)
    coordinator = run(effect_config(tasks, "training.num_rounds=50"), tasks, tmp_path)
    found = groups_after(coordinator)
    wanted = [[f"g{group}t{task}" for task in range(4)] for group in range(3)]
    assert wanted in found[:10] and found[found.index(wanted) :] == [wanted] * (50 - found.index(wanted))


CLIENTS = (("a", ("a0",), "1/2"), ("b", ("b1",), "1/2"), ("c", ("a0",), "2/2"))
EAGERLY = ("sharing.plan=adaptive", "relation={name: effect, every: 1, confirm: 1, margin: 0}", "training.num_rounds=3")


def test_a_simulation_and_real_clients_have_the_same_bits_and_the_report_says_what_it_cost(tmp_path: Path) -> None:
    """Two members in rounds 2 and 3: of one group each half is compared, of two groups the two as one."""
    config = array_config(*EAGERLY, "simulation.workers=2", "model.mlp.hidden=[4]")
    virtual = simulated(config, tmp_path / "virtual", MIXED[:3], codec=True)
    real = asyncio.run(over_grpc(config, tmp_path / "real", MIXED[:3]))
    assert digest_of(virtual) == digest_of(real)
    assert [record.state for record in virtual.journal.relations()] == [r.state for r in real.journal.relations()]
    kinds = [round_.phase.name for round_ in virtual.journal.rounds()]
    assert kinds == ["train", "probe", "train", "probe", "train", "evaluate"]
    costs = probe_costs(virtual.journal.rounds())
    assert costs is not None and (costs.rounds, costs.answers, costs.candidates) == (2, 6, 12)
    assert costs.bytes == 6 * 4 * (5 * 4 + 4), "layer_0 of 24 numbers, once per answer"


def test_a_coordinator_that_dies_in_a_round_with_a_comparison_comes_to_the_same_bits(tmp_path: Path) -> None:
    config = array_config(*EAGERLY)
    template, cast = prepare_run(config, tmp_path / "template"), Cast(config, CLIENTS)
    digest, effects = asyncio.run(crash_and_recover(config, template, tmp_path / "whole", cast, None, False))
    second = [place for place, effect in enumerate(effects, 1) if effect == "Commit"][1:4]
    for number, clients_die in (*((n, False) for n in second), (second[1], True)):
        place = tmp_path / f"{number}-{clients_die}"
        found, _ = asyncio.run(crash_and_recover(config, template, place, cast, number, clients_die))
        assert found == digest, effects[number - 1]


@pytest.mark.slow
def test_tasks_with_random_labels_end_apart_and_cost_the_others_little(tmp_path: Path) -> None:
    planted_alone, with_noise = planted(3, 4), planted(3, 4, noise=2)
    alone = run(effect_config(planted_alone, "training.num_rounds=50"), planted_alone, tmp_path / "alone")
    beside = run(effect_config(with_noise, "training.num_rounds=50"), with_noise, tmp_path / "beside")
    wanted = [[f"g{group}t{task}" for task in range(4)] for group in range(3)]
    assert [group for group in groups_after(beside)[-1] if not {"n0", "n1"} & {*group}] == wanted
    assert mean_accuracy(beside, [*planted_alone]) >= mean_accuracy(alone, [*planted_alone]) - 0.02
