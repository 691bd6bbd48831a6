"""The phases that a round may have: what their orders ask for, and which answers fit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from common.bodies import Body, ControlShare, Evaluate, Probe, ProximalTerm, ScopeVersion, Solve, Train
from common.orders import Reply, UpdateHeader
from common.parameters.scope import Scope, is_control
from common.seeds import derive_seed
from server.core.answer_checks import check_scores, check_solution, check_update
from server.core.dual import problems_of
from server.core.phases import EVALUATE, PROBE, SOLVE, TRAIN, RoundPhase
from server.core.privacy import closed_scopes, promise_to
from server.core.probing import check_losses, offers, starts_of
from server.core.state import FederationState, OpenOrder, OpenRound, RunSettings


def body_of(run: RunSettings, state: FederationState, round_: OpenRound, order: OpenOrder) -> Body:
    """What an order of the open round asks for."""
    return PHASES[round_.phase.name].body(run, state, round_, order)


def _train(run: RunSettings, state: FederationState, round_: OpenRound, order: OpenOrder) -> Train:
    scopes = [Scope.parse(wanted.scope) for wanted in order.scopes]
    return Train(
        run.training_in(round_.number),
        _seed(run, round_, order),
        order.codec,
        proximal_terms(run, state, (*order.scopes, *(ScopeVersion(scope, 0) for scope in run.private_anchors))),
        isolated_tasks=tuple(task for task in order.tasks if task in state.fallback_tasks),
        controls=tuple(ControlShare(s.base, round_.variates[s.base]) for s in scopes if is_control(str(s))),
        starts=starts_of(run, state, round_, order.scopes),
        fixed=tuple(sorted(closed_scopes(run, state, (wanted.scope for wanted in order.scopes), order.tasks))),
        noise=promise_to(run, state, order.client_id),
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
    return Evaluate(run.training, _seed(run, round_, order), problems_of(run, state, order))


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
}
"""By the name under which they stand in the journal."""
