"""Phases in which clients compare candidates: what is offered to whom, what their answers come to, what follows.

All of it is a function of the run, of what relations remember, and of answers, each of which is in the journal: a
coordinator that comes back offers and chooses the same.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import lru_cache
from math import fsum, inf, sqrt
from typing import Any

from common.bodies import Candidate, ScopeVersion
from common.errors import Reason, Refused
from common.methods.relation import CandidateScore
from common.orders import Reply, UpdateHeader
from common.parameters.scope import Scope
from common.probing import ProbeLosses, TaskLosses
from common.statistics import LARGEST_LOSS
from server.core.answer_checks import answer_as
from server.core.open_round import OpenOrder, OpenRound, OrderState
from server.core.phases import PROBE, RoundPhase
from server.core.probe_facts import NOT_PROBED, Probed
from server.core.state import FederationState, RunSettings

ROUNDING = 1e-6
"""Sums of single losses are equal to this, relative to the losses."""


def opening_phase(run: RunSettings, state: FederationState, orders: Iterable[Iterable[ScopeVersion]]) -> RoundPhase:
    """The first phase of a round with orders about these scopes: one to compare only where there is something to."""
    first = run.protocol.phases[0]
    if first is PROBE and not any(offers(run, state, scopes) for scopes in orders):
        return run.protocol.phases[1]
    return first


def offers(run: RunSettings, state: FederationState, scopes: Iterable[ScopeVersion]) -> tuple[Candidate, ...]:
    """What a client with these scopes compares before this round; nothing where nothing is offered to it."""
    relation = run.probes
    if relation is None:
        return ()
    members = [scope for scope in map(Scope.parse, (wanted.scope for wanted in scopes)) if scope.is_member]
    names = {scope: relation.offered(_remembered(state, scope), scope.owner) for scope in members}
    if relation.whole_models:
        every = next(iter(names.values()), ())
        return tuple(tuple(_candidate(state, scope, name) for scope in members) for name in every)
    found = [(_candidate(state, scope, name),) for scope in members for name in names[scope]]
    return ((), *found) if found else ()


def candidate_version(run: RunSettings, state: FederationState, candidate: Scope) -> int:
    """The version at which a candidate can be fetched; -1 where it is not offered."""
    assert candidate.of is not None
    relation, scope = run.probes, candidate.of
    if relation is None or not scope.is_member:
        return -1
    offered = candidate.owner in relation.offered(_remembered(state, scope), scope.owner)
    return _candidate(state, scope, candidate.owner).version if offered else -1


def candidate_bytes(run: RunSettings, state: FederationState, order: OpenOrder, answer: Reply) -> int:
    """The bytes of the candidates that an order compared; 0 of other orders."""
    if not isinstance(answer.content, ProbeLosses):
        return 0
    offered = {wanted.scope for candidate in offers(run, state, order.scopes) for wanted in candidate}
    return sum(run.schemas[Scope.parse(scope).base][1] for scope in offered)


def starts_of(
    run: RunSettings, state: FederationState, round_: OpenRound, scopes: Iterable[ScopeVersion]
) -> tuple[ScopeVersion, ...]:
    """The candidates from which an order about these scopes is trained."""
    past = _probe_of(round_)
    if past is None:
        return ()
    members = [scope for scope in map(Scope.parse, (wanted.scope for wanted in scopes)) if scope.is_member]
    return _starts(run, state, members, _scores(run, state, past, frozenset(map(str, members))))


def _starts(
    run: RunSettings, state: FederationState, members: Iterable[Scope], scores: _Scores
) -> tuple[ScopeVersion, ...]:
    """The candidates that members with these scores chose."""
    relation = run.probes
    assert relation is not None
    found = []
    for scope in members:
        said = scores.get(scope.template, {}).get(scope.owner)
        chosen = relation.chosen(said) if said else None
        found += [_candidate(state, scope, chosen)] if chosen is not None else []
    return tuple(found)


def probed(run: RunSettings, state: FederationState, round_: OpenRound) -> Probed:
    """What the relation hears of a round's candidates, when its updates are combined."""
    past = _probe_of(round_)
    if past is None:
        return NOT_PROBED
    names = sorted({wanted.scope for order in round_.orders.values() for wanted in order.scopes})
    members = [scope for scope in map(Scope.parse, names) if scope.is_member]
    scores = _scores(run, state, past)
    starts = _starts(run, state, members, scores)
    return Probed({Scope.parse(found.scope).base: found.scope for found in starts}, scores)


def check_losses(run: RunSettings, state: FederationState, order: OpenOrder, answer: UpdateHeader | Reply) -> None:
    """Check what answers an order to compare candidates.

    Raises:
        Refused: it is no reply, it is not about the order's tasks and candidates, or its numbers cannot be true.
    """
    content = answer_as(Reply, order, answer).content
    if not isinstance(content, ProbeLosses) or answer.results:
        raise Refused(Reason.MALFORMED, f"order {order.order_id} is answered by the losses of candidates and no scores")
    tasks = sorted(found.task for found in content.tasks)
    if tasks != sorted(order.tasks):
        text = f"order {order.order_id} is about tasks {sorted(order.tasks)}, losses are of {tasks}"
        raise Refused(Reason.MALFORMED, text)
    candidates = len(offers(run, state, order.scopes))
    for found in content.tasks:
        if problem := _problem(run, state, order, found, candidates):
            raise Refused(Reason.MALFORMED, f"order {order.order_id}: {problem} of task '{found.task}'")


def _problem(
    run: RunSettings, state: FederationState, order: OpenOrder, said: TaskLosses, candidates: int
) -> str | None:
    """What cannot be true of losses, in a few words, or None."""
    definition, client = run.definition(said.task), state.clients[order.client_id]
    assert definition is not None and run.probes is not None
    held = (client.examples if run.probes.probes == "train" else client.validation).get(said.task, 0)
    most = definition.type.most_scored(held, run.parts_of(said.task))
    if not 0 <= said.rows <= most:
        return f"losses of {said.rows} rows where the client joined with {held}"
    if {len(said.losses), len(said.gains), len(said.squares)} != {candidates}:
        return f"{len(said.losses)} losses for {candidates} candidates"
    for loss, gain, square in zip(said.losses, said.gains, said.squares, strict=True):
        most_loss = said.rows * LARGEST_LOSS
        if not (abs(loss) <= most_loss and abs(gain) <= 2.0 * most_loss):
            return f"loss {loss} and gain {gain}"
        if not abs(said.losses[0] - loss - gain) <= ROUNDING * (abs(said.losses[0]) + abs(loss)):
            return f"gain {gain}, which is not that of losses {said.losses[0]} and {loss},"
        if not gain * gain <= (1.0 + ROUNDING) * said.rows * square <= (2.0 + ROUNDING) ** 2 * most_loss**2:
            return f"squares {square} beside gain {gain}"
    return None


def _probe_of(round_: OpenRound) -> OpenRound | None:
    return next((past for past in round_.earlier if past.phase is PROBE), None)


def _candidate(state: FederationState, scope: Scope, name: str) -> ScopeVersion:
    related = state.relations.get(scope.template)
    return ScopeVersion(scope.candidate(name), 0 if related is None else related.round)


def _remembered(state: FederationState, scope: Scope) -> Mapping[str, Any]:
    related = state.relations.get(scope.template)
    return {} if related is None else _parsed(related.state)


@lru_cache(maxsize=64)  # every client asks for it
def _parsed(state: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = json.loads(state or "{}")
    return found


_Sums = list[tuple[int, float, float, float]]
"""Rows, loss, gain and squares, of each client and task."""
_Scores = dict[str, dict[str, dict[str, CandidateScore]]]
"""By template, member and candidate."""


def _scores(
    run: RunSettings, state: FederationState, past: OpenRound, scopes: Collection[str] | None = None
) -> _Scores:
    """Of all members, or of those with one of these scopes alone."""
    sums: dict[tuple[str, str, str], _Sums] = defaultdict(list)
    for order in _answered(past, scopes):
        assert isinstance(order.content, ProbeLosses)
        for number, candidate in enumerate(offers(run, state, order.scopes)):
            said = [(t.rows, t.losses[number], t.gains[number], t.squares[number]) for t in order.content.tasks]
            for found in (Scope.parse(wanted.scope) for wanted in candidate):
                assert found.of is not None
                sums[found.template, found.of.owner, found.owner] += said
    scores: _Scores = {}
    for (template, member, name), parts in sums.items():
        scores.setdefault(template, {}).setdefault(member, {})[name] = _score(parts)
    return scores


def _answered(past: OpenRound, scopes: Collection[str] | None) -> Iterator[OpenOrder]:
    for _, order in sorted(past.orders.items()):
        wanted = scopes is None or any(held.scope in scopes for held in order.scopes)
        if wanted and order.state is OrderState.ACCEPTED:
            yield order


def _score(parts: _Sums) -> CandidateScore:
    rows = sum(part[0] for part in parts)
    if not rows:
        return CandidateScore(0, 0.0, 0.0, inf)
    loss, gain, squares = (fsum(part[place] for part in parts) / rows for place in (1, 2, 3))
    if rows == 1:
        return CandidateScore(rows, loss, gain, inf)
    return CandidateScore(rows, loss, gain, sqrt(max(squares - gain * gain, 0.0) / (rows - 1)))
