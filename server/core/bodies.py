"""The phases that a round may have: what their orders ask for, and which answers fit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from common.bodies import RING, Body, ControlShare, Evaluate, Probe, ProximalTerm, ScopeVersion, Solve, Train
from common.orders import Reply, UpdateHeader
from common.parameters.scope import Scope, is_control
from common.seeds import derive_seed
from common.stages import Confirm, Keys, Shares, Unmask
from server.core import circles, stage_checks
from server.core.answer_checks import check_scores, check_solution, check_update
from server.core.dual import problems_of
from server.core.open_round import OpenOrder, OpenRound
from server.core.phases import (
    CONFIRM,
    EVALUATE,
    KEYS,
    PROBE,
    SCORE_CONFIRM,
    SCORE_KEYS,
    SCORE_SHARES,
    SCORE_UNMASK,
    SHARES,
    SOLVE,
    TRAIN,
    UNMASK,
    RoundPhase,
)
from server.core.privacy import clip_of, closed_scopes, promise_to
from server.core.probing import check_losses, offers, starts_of
from server.core.state import FederationState, RunSettings


def body_of(run: RunSettings, state: FederationState, round_: OpenRound, order: OpenOrder) -> Body:
    """What an order of the open round asks for."""
    return PHASES[round_.phase.name].body(run, state, round_, order)


def _train(run: RunSettings, state: FederationState, round_: OpenRound, order: OpenOrder) -> Train:
    scopes = [Scope.parse(wanted.scope) for wanted in order.scopes]
    closed = closed_scopes(run, state, (wanted.scope for wanted in order.scopes), order.tasks)
    return Train(
        run.training_in(round_.number),
        _seed(run, round_, order),
        order.codec if run.sums is None else RING,
        proximal_terms(run, state, (*order.scopes, *(ScopeVersion(scope, 0) for scope in run.private_anchors))),
        isolated_tasks=tuple(task for task in order.tasks if task in state.fallback_tasks),
        controls=tuple(ControlShare(s.base, round_.variates[s.base]) for s in scopes if is_control(str(s))),
        starts=starts_of(run, state, round_, order.scopes),
        fixed=tuple(sorted(closed | circles.closed_scopes(run, round_, order))),
        noise=promise_to(run, state, order.client_id),
        sums=circles.sum_order(run, round_, order, clip_of(run, state)),
    )


def _probe(run: RunSettings, state: FederationState, round_: OpenRound, order: OpenOrder) -> Probe:
    assert run.probes is not None and run.probes.probes is not None
    candidates, rows = offers(run, state, order.scopes), run.probes.probes
    return Probe(candidates, rows, run.training.eval_batch_size, _seed(run, round_, order))


def proximal_terms(
    run: RunSettings, state: FederationState, scopes: Iterable[ScopeVersion]
) -> tuple[ProximalTerm, ...]:
    """What holds scopes to anchors: those that a relation made, or the run's first values."""
    found = []
    for wanted in scopes:
        scope = Scope.parse(wanted.scope)
        if scope.is_derived:
            continue
        related = state.relations.get(scope.template)
        if related is not None and related.mu.get(wanted.scope):
            found.append(ProximalTerm(wanted.scope, related.mu[wanted.scope], wanted.version))
        elif run.anchor_strength and (scope.is_shared or wanted.scope in run.private_anchors):
            found.append(ProximalTerm(wanted.scope, run.anchor_strength, 0))
    return tuple(found)


def _evaluate(run: RunSettings, state: FederationState, round_: OpenRound, order: OpenOrder) -> Evaluate:
    """Fine-tuning, which comes after the last round, has the whole rate."""
    sums = circles.sum_order(run, round_, order)
    return Evaluate(run.training, _seed(run, round_, order), problems_of(run, state, order), sums)


def _keys(run: RunSettings, state: FederationState, round_: OpenRound, order: OpenOrder) -> Keys:
    assert run.sums is not None
    found = tuple(stand.circle for stand in circles.parts_for(run, round_, order.client_id))
    return Keys(round_.attempt, circles.is_scoring(round_), run.sums.terms, found)


def _shares(run: RunSettings, state: FederationState, round_: OpenRound, order: OpenOrder) -> Shares:
    found = circles.parts_for(run, round_, order.client_id)
    rosters = tuple((stand.circle.name, stand.announcements) for stand in found)
    return Shares(round_.attempt, circles.is_scoring(round_), rosters)


def _confirm(run: RunSettings, state: FederationState, round_: OpenRound, order: OpenOrder) -> Confirm:
    survivors = circles.survivors_for(run, round_, order.client_id)
    return Confirm(round_.attempt, circles.is_scoring(round_), survivors)


def _unmask(run: RunSettings, state: FederationState, round_: OpenRound, order: OpenOrder) -> Unmask:
    return Unmask(round_.attempt, circles.is_scoring(round_), circles.unmask_parts(run, round_, order.client_id))


def _solve(run: RunSettings, state: FederationState, round_: OpenRound, order: OpenOrder) -> Solve:
    return Solve(run.training, _seed(run, round_, order), problems_of(run, state, order), order.codec)


def _seed(run: RunSettings, round_: OpenRound, order: OpenOrder) -> int:
    """Of this client in this round: the run's own seed would tell whom later rounds choose."""
    return derive_seed(run.seed, round_.number, order.client_id, "training")


@dataclass(frozen=True)
class PhaseRow:
    """What the orders of a phase are about."""

    phase: RoundPhase
    body: Callable[[RunSettings, FederationState, OpenRound, OpenOrder], Body]
    """What an order asks for."""
    check: Callable[[RunSettings, FederationState, OpenOrder, UpdateHeader | Reply], None]
    """Raises `Refused` where an answer does not fit its order."""


PHASES: Mapping[str, PhaseRow] = {
    PROBE.name: PhaseRow(PROBE, _probe, check_losses),
    TRAIN.name: PhaseRow(TRAIN, _train, check_update),
    SOLVE.name: PhaseRow(SOLVE, _solve, check_solution),
    EVALUATE.name: PhaseRow(EVALUATE, _evaluate, check_scores),
    KEYS.name: PhaseRow(KEYS, _keys, stage_checks.check_keys),
    SHARES.name: PhaseRow(SHARES, _shares, stage_checks.check_shares),
    CONFIRM.name: PhaseRow(CONFIRM, _confirm, stage_checks.check_confirmation),
    UNMASK.name: PhaseRow(UNMASK, _unmask, stage_checks.check_openings),
    SCORE_KEYS.name: PhaseRow(SCORE_KEYS, _keys, stage_checks.check_keys),
    SCORE_SHARES.name: PhaseRow(SCORE_SHARES, _shares, stage_checks.check_shares),
    SCORE_CONFIRM.name: PhaseRow(SCORE_CONFIRM, _confirm, stage_checks.check_confirmation),
    SCORE_UNMASK.name: PhaseRow(SCORE_UNMASK, _unmask, stage_checks.check_openings),
}
"""By the name under which they stand in the journal."""
