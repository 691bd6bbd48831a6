"""What orders ask for: a body for each phase of a round."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from common.orders import Body, ControlShare, Evaluate, ProximalTerm, ScopeVersion, Train
from common.parameters.scope import Scope, is_control
from common.seeds import derive_seed
from server.core.phases import EVALUATE, TRAIN, RoundPhase
from server.core.state import FederationState, OpenOrder, OpenRound, Rules


def body_of(rules: Rules, state: FederationState, round_: OpenRound, order: OpenOrder) -> Body:
    """What an order of the open round asks for."""
    return _BODIES[round_.phase](rules, state, round_, order)


def _train(rules: Rules, state: FederationState, round_: OpenRound, order: OpenOrder) -> Train:
    scopes = [Scope.parse(wanted.scope) for wanted in order.scopes]
    return Train(
        rules.training_in(round_.number),
        _seed(rules, round_, order),
        order.codec,
        proximal_terms(rules, state, order.scopes),
        isolated_tasks=tuple(task for task in order.tasks if task in state.fallen),
        controls=tuple(ControlShare(s.base, round_.variates[s.base]) for s in scopes if is_control(str(s))),
    )


def proximal_terms(rules: Rules, state: FederationState, scopes: Iterable[ScopeVersion]) -> tuple[ProximalTerm, ...]:
    """What holds scopes to anchors: those that a relation made, or the run's first values."""
    found = []
    for wanted in scopes:
        scope = Scope.parse(wanted.scope)
        if scope.is_derived:
            continue
        related = state.relations.get(scope.template)
        if related is not None and related.mu.get(wanted.scope):
            found.append(ProximalTerm(wanted.scope, related.mu[wanted.scope], wanted.version))
        elif rules.anchor_strength and scope.is_shared:
            found.append(ProximalTerm(wanted.scope, rules.anchor_strength, 0))
    return tuple(found)


def _evaluate(rules: Rules, state: FederationState, round_: OpenRound, order: OpenOrder) -> Evaluate:
    """Fine-tuning, which comes after the last round, has the whole rate."""
    return Evaluate(rules.training, _seed(rules, round_, order))


def _seed(rules: Rules, round_: OpenRound, order: OpenOrder) -> int:
    """Of this client in this round: the run's own seed would tell whom later rounds choose."""
    return derive_seed(rules.seed, round_.number, order.client_id, "training")


_BODIES: Mapping[RoundPhase, Callable[[Rules, FederationState, OpenRound, OpenOrder], Body]] = {
    TRAIN: _train,
    EVALUATE: _evaluate,
}
