"""The certificate of a dual method, round by round: what problems orders carry, and what a version's gap is made of.

A version's primal value needs the losses of all rows at its weights. Clients tell them when they are asked the next
time, before they go on, so a version is certified when the round after it closes, and the last one by the scoring
round. For a client that was silent the bound of `DualLoss.silent` stands in: its last loss, and how far the weights
went since.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from math import fsum

from common.bodies import DualProblem
from common.log_fields import LogFields
from common.orders import DualSums
from common.parameters.scope import Scope, is_sum
from common.parameters.vector import Float64
from server.core.dual_facts import Block, Certificate, Dual, DualSettings, HeadRows, Relationship
from server.core.effects import Notice, Record
from server.core.open_round import OpenOrder, OpenRound, OrderState
from server.core.state import ClientRecord, FederationState, RunSettings


def heads_of(
    run: RunSettings, clients: Mapping[str, ClientRecord], dual: Dual | None = None
) -> dict[str, dict[str, int]]:
    """Head scope -> client -> training rows, of all clients that ever joined and have some.

    A client that came back without a task stays in its problem, since its dual variables are in the sum.
    """
    found: dict[str, dict[str, int]] = {}
    for scope, blocks in (dual.blocks if dual is not None else {}).items():
        if held := {name: block.rows for name, block in blocks.items() if block.solved}:
            found[scope] = held
    for name, client in sorted(clients.items()):
        for scope in run.scopes_of(client, client.tasks):
            if rows := client.examples.get(Scope.parse(scope).task, 0):
                found.setdefault(scope, {})[name] = rows
    return dict(sorted(found.items()))


def counted(held: Mapping[str, Mapping[str, int]]) -> dict[str, HeadRows]:
    """Rows and clients of each head."""
    return {scope: HeadRows(sum(rows.values()), len(rows)) for scope, rows in held.items()}


def member_names(heads: Iterable[str]) -> tuple[str, ...]:
    """What relations call the heads: by their task or member, and by both where a member has several."""
    scopes = [Scope.parse(name) for name in heads]
    times = Counter(scope.owner for scope in scopes)
    return tuple(s.owner if times[s.owner] == 1 else f"{s.owner}/{s.task}" for s in scopes)


def begun(run: RunSettings, state: FederationState) -> tuple[FederationState, list[Record]]:
    """The state of a run that solves a dual before its first round: all weights and dual variables are 0."""
    if run.dual is None or state.dual is not None:
        return state, []
    from common.methods.covariance import coupling_bound

    held = heads_of(run, state.clients)
    heads = counted(held)
    sigma = covariance_of(run.dual, tuple(heads))
    variances = dict(zip(heads, sigma.diagonal().tolist(), strict=True))
    coupling = coupling_bound(sigma, blocks_of(heads))
    blocks = {scope: {client: Block(rows) for client, rows in found.items()} for scope, found in held.items()}
    found = Dual(state.completed_rounds, Relationship(heads, variances, coupling, 0.0), blocks)
    return replace(state, dual=found), [found]


def asked_for(run: RunSettings, state: FederationState) -> dict[str, HeadRows]:
    """The heads that the open round makes anew when it closes: all of them, since they depend on each other."""
    return counted(heads_of(run, state.clients, state.dual)) if run.dual is not None else {}


def closed(
    run: RunSettings, state: FederationState, round_: OpenRound, relationship: Relationship | None = None
) -> tuple[FederationState, list[Record]]:
    """The state after a round, with the `relationship` of the version that it publishes if it does; and what is new."""
    if run.dual is None or state.dual is None:
        return state, []
    found = measured(run.dual, state.dual, round_)
    if relationship is not None:
        found = solved(run, found, round_, relationship, state.clients)
    new = found.certificate is not None and found.certificate != state.dual.certificate
    certified: list[Record] = [found.certificate] if new and found.certificate is not None else []
    return replace(state, dual=found), [found, *certified]


def blocks_of(heads: Mapping[str, HeadRows]) -> list[int]:
    """Of each client's rows of a head, the place of the head."""
    return [place for place, head in enumerate(heads.values()) for _ in range(head.clients)]


def covariance_of(settings: DualSettings, heads: Sequence[str], gram: Float64 | None = None) -> Float64:
    """The relationship matrix Sigma of heads, (heads, heads) of trace 1, as the relation says.

    It may learn from `gram`, inner products of their weights; without a relation heads are independent.
    """
    from common.methods.covariance import independent

    found = None
    if settings.relation is not None:
        found = settings.relation.covariance(member_names(heads), gram)
    return independent(len(heads)) if found is None else found


def problems_of(run: RunSettings, state: FederationState, order: OpenOrder) -> tuple[DualProblem, ...]:
    """What an order says of each of its heads; one that came after the last round has its own rows alone."""
    if run.dual is None or state.dual is None:
        return ()
    client, dual = state.clients[order.client_id], state.dual
    known, found = dual.relationship, []
    for scope in run.scopes_of(client, order.tasks):
        task = Scope.parse(scope).task
        if mine := client.examples.get(task, 0):
            block = dual.blocks.get(scope, {}).get(order.client_id)
            rows = known.heads[scope].rows if scope in known.heads else 0
            rows += mine if block is None else 0
            variance = known.variances.get(scope, 1.0 / max(len(known.heads), 1))
            found.append(DualProblem(task, scope, rows, variance, known.coupling, block.solved if block else 0))
    return tuple(found)


def measured(settings: DualSettings, dual: Dual, round_: OpenRound) -> Dual:
    """The same with what a round's clients said of the version that they received, and its certificate."""
    blocks = {scope: dict(found) for scope, found in dual.blocks.items()}
    for scope, client, sums in _answers(blocks, round_):
        block = blocks[scope][client]
        blocks[scope][client] = replace(block, loss=sums.loss, lengths=sums.lengths, squares=sums.squares, moved=0.0)
    dual = replace(dual, blocks=blocks)
    return replace(dual, certificate=certificate_of(settings, dual) or dual.certificate)


def certificate_of(settings: DualSettings, dual: Dual) -> Certificate | None:
    """What is certain of the version that `dual` describes; None as long as a client has never said its loss."""
    loss = settings.solver.dual_loss()
    primal, value, silent = [], [], 0
    for scope, found in dual.blocks.items():
        rows = dual.relationship.heads[scope].rows
        for block in found.values():
            if block.loss is None:
                return None
            bound = loss.silent(block.loss, block.moved, block.lengths, block.squares) if block.moved else block.loss
            silent += block.moved > 0
            primal.append(bound / rows)
            value.append(block.value / rows)
    penalty = settings.solver.strength / 2.0 * dual.relationship.penalty
    return Certificate(dual.number, fsum([*primal, penalty]), fsum([*value, -penalty]), silent)


def solved(
    run: RunSettings, dual: Dual, round_: OpenRound, relationship: Relationship, clients: Mapping[str, ClientRecord]
) -> Dual:
    """Where things stand once a round's dual variables are committed and its version is published.

    Args:
        run: the run.
        dual: as `measured` left it.
        round_: the round.
        relationship: of the version that it publishes.
        clients: all that ever joined; those that are new since belong to the problem from now on.
    """
    blocks = {
        scope: {name: dual.blocks.get(scope, {}).get(name, Block(rows)) for name, rows in found.items()}
        for scope, found in heads_of(run, clients, dual).items()
        if scope in relationship.heads
    }
    for scope, client, sums in _answers(blocks, round_):
        block = blocks[scope][client]
        blocks[scope][client] = replace(
            block,
            solved=round_.number,
            value=sums.value,
            loss=sums.loss if block.loss is None else block.loss,
            lengths=sums.lengths,
            squares=sums.squares,
        )
    moved = relationship.moved
    blocks = {
        scope: {name: replace(block, moved=block.moved + moved.get(scope, 0.0)) for name, block in found.items()}
        for scope, found in blocks.items()
    }
    return Dual(round_.number, replace(relationship, moved={}), blocks, dual.certificate)


def reached(run: RunSettings, state: FederationState) -> bool:
    """Whether the gap that ends the run is reached.

    Where Sigma is learned, only a version counts for which it was made anew: its heads hardly change it any more.
    When the next version is scored too, which ends the run, its gap must still be small.
    """
    certificate = state.dual.certificate if state.dual is not None else None
    if certificate is None or run.dual is None or run.dual.stop_at_gap is None:
        return False
    relation, version = run.dual.relation, min(certificate.version, state.completed_rounds - 1)
    fits = relation is None or not relation.learns or (version > 0 and relation.learns_after(version))
    return fits and certificate.gap <= run.dual.stop_at_gap


def said_of(certificate: Certificate) -> str:
    """A certificate in words."""
    silent = f", {certificate.silent} of its losses bounded" if certificate.silent else ""
    values = f"primal {certificate.primal:.6g}, dual {certificate.dual:.6g}, gap {certificate.gap:.3g}"
    return f"version {certificate.version}: {values}{silent}"


def notices_of(before: Dual | None, now: Dual | None) -> list[Notice]:
    """A line for a certificate that is new."""
    found = now.certificate if now is not None else None
    if found is None or (before is not None and before.certificate == found):
        return []
    return [Notice(said_of(found), about=LogFields(event="certified", round=found.version))]


def _answers(blocks: Mapping[str, Mapping[str, Block]], round_: OpenRound) -> Iterator[tuple[str, str, DualSums]]:
    """(head, client, sums) of each accepted answer about rows that belong to the problem."""
    for _, order in sorted(round_.orders.items()):
        if order.state is not OrderState.ACCEPTED:
            continue
        scopes = {Scope.parse(s.scope).task: s.scope for s in order.scopes if not is_sum(s.scope)}
        for result in order.results:
            scope = scopes.get(result.task, "")
            if result.dual is not None and order.client_id in blocks.get(scope, {}):
                yield scope, order.client_id, result.dual
