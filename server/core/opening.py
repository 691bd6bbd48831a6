"""Whether a round can be held, and with whom: what opens it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from itertools import chain

from common.bodies import ScopeVersion
from common.log_fields import LogFields
from server.core import best, circles, dual, privacy
from server.core.account import MOST_NAMES
from server.core.effects import Effect, Notice, Record, RoundOpened, RunEnded
from server.core.open_round import OpenOrder, OpenRound, OrderState, order_id
from server.core.phases import ENDED, Phase, RoundPhase
from server.core.probing import opening_phase
from server.core.scales import with_scales
from server.core.selection import select, tasks_of_order
from server.core.state import ClientRecord, FederationState, RunSettings
from server.core.units import with_units
from server.core.weighing import caps_of, variates_of


def waits_for(run: RunSettings, state: FederationState) -> str:
    """What has to happen before the run goes on, for people."""
    if state.phase in ENDED:
        return state.reason or "nothing: the run is over"
    if state.draining:
        return "nothing: the coordinator is stopping"
    if state.open is not None:
        if run.noise is not None and run.noise.is_sampled:  # their number tells, too
            return "the round to close"
        slow = sorted(order.client_id for order in state.open.orders.values() if order.state is OrderState.ISSUED)
        more = f" and {len(slow) - MOST_NAMES} more" if len(slow) > MOST_NAMES else ""
        return f"updates of {', '.join(slow[:MOST_NAMES])}{more}" if slow else "the round to close"
    present = state.present()
    missing = _missing(run, present)
    return f"clients for {', '.join(missing)}" if missing else _too_few(run, state, present) or "clients"


def open_if_possible(
    run: RunSettings, state: FederationState, now: float
) -> tuple[FederationState, list[Record], list[Effect]]:
    """The state with the next round if it can be held, records of that, and what people hear."""
    present = state.present()
    missing = _missing(run, present)
    state = replace(state, short_since=_short_since(run, state, present, now))
    timed_out = now - state.waiting_since >= run.start_timeout_seconds
    shortage = _too_few(run, state, present)
    if shortage and timed_out:
        reason = f"{shortage} for {run.start_timeout_seconds:g} s (federation.start_timeout_seconds)"
        state = replace(state, phase=Phase.FAILED, reason=reason)
        return state, [RunEnded(Phase.FAILED, reason)], [failed(reason)]
    patient = state.short_since is not None and now - state.short_since < run.rejoin_timeout_seconds
    if shortage or patient or (state.completed_rounds == 0 and missing and not timed_out):
        waiting = state if state.phase is Phase.WAITING else replace(state, phase=Phase.WAITING, waiting_since=now)
        return waiting, [], []
    training = best.goes_on(run, state)
    ledger = privacy.opened(run, state) if training else None
    state = state if ledger is None else replace(state, ledger=ledger)
    state, units, said = with_units(run, state, present)
    state, scales, more = with_scales(run, state, present)
    state, began = dual.begun(run, state)
    round_ = _new_round(run, state, present, training, now)
    state = assigned(state, round_)
    notices: list[Effect] = [*said, *more]
    if missing and training and state.attempt == 1:
        absent = LogFields(event="clients_missing", round=round_.number)
        text = f"round {round_.number} goes without clients for {', '.join(missing)}"
        notices.append(Notice(text, warning=True, about=absent))
    if training and state.completed_rounds == 0 and state.attempt == 1:
        notices += circles.too_small(run, state, round_)
    charged = () if ledger is None else (ledger,)
    return state, [*units, *scales, *began, *charged, RoundOpened(round_)], notices


def _short_since(run: RunSettings, state: FederationState, present: list[ClientRecord], now: float) -> float | None:
    """Since when a later round lacks clients of `min_clients`; those that stay away are waited for once."""
    if state.completed_rounds == 0 or len(present) >= run.min_clients:
        return None
    return now if state.short_since is None else state.short_since


def _too_few(run: RunSettings, state: FederationState, present: list[ClientRecord]) -> str:
    """Why no round can be held with those who are here, however long they have waited; empty if one can."""
    if not present:
        return "no client"
    number = state.completed_rounds + 1
    if not best.goes_on(run, state):
        return ""
    if lacking := privacy.lacks_clients(run, state):
        return lacking
    if run.sums is not None and len(present) < run.sums.least:
        return f"{len(present)} clients where a sum needs {run.sums.least} (secure_aggregation.min_clients)"
    if run.min_updates == 1:
        return ""
    chosen = len(select(run, present, number))
    if chosen >= run.min_updates:
        return ""
    return f"{chosen} clients to ask where federation.min_updates is {run.min_updates}"


def _new_round(
    run: RunSettings, state: FederationState, present: list[ClientRecord], training: bool, now: float
) -> OpenRound:
    phase = (run.protocol if training else run.scoring).phases[0]
    number = state.completed_rounds + 1 if training else state.completed_rounds
    chosen = select(run, privacy.asked(run, state, present), number) if training else present
    about = [(client, tasks_of_order(run, client, number) if training else client.tasks) for client in chosen]
    orders = [new_order(run, state, phase, number, client, tasks) for client, tasks in about]
    if training and (opens := opening_phase(run, state, (order.scopes for order in orders))) is not phase:
        phase, orders = opens, [new_order(run, state, opens, number, client, tasks) for client, tasks in about]
    return opened_round(run, state, phase, number, {order.order_id: order for order in orders}, now)


def new_order(
    run: RunSettings,
    state: FederationState,
    phase: RoundPhase,
    number: int,
    client: ClientRecord,
    tasks: tuple[str, ...],
) -> OpenOrder:
    """A client's order of a phase."""
    name = order_id(phase, number, state.attempt, client.client_id)
    held = run.scopes_in(phase, number, client, tasks)
    scopes = tuple(ScopeVersion(scope, state.version_of(scope)) for scope in held)
    codec = run.codec_for(client.capabilities)
    untrained = privacy.untrained_scopes(run, state, client, tasks, number)
    return OpenOrder(name, client.client_id, tasks, scopes, codec=codec, untrained=untrained)


def opened_round(
    run: RunSettings,
    state: FederationState,
    phase: RoundPhase,
    number: int,
    orders: Mapping[str, OpenOrder],
    now: float,
) -> OpenRound:
    """A phase that opens with these orders."""
    deadline = now + seconds_of(run, phase)
    caps = caps_of(run, state.clients, orders.values())
    variates = variates_of(run, state.clients) if phase.publishes else {}
    version = state.completed_rounds
    opens = OpenRound(number, state.attempt, phase, version, deadline, orders, caps, variates, began=now)
    return circles.with_circles(run, state, opens)


def assigned(state: FederationState, round_: OpenRound) -> FederationState:
    """The state with a round whose orders are new."""
    clients = dict(state.clients)
    for order in round_.orders.values() if not round_.phase.is_stage else ():
        client = clients[order.client_id]
        clients[order.client_id] = replace(client, tally=client.tally.add(assigned=1))
    return replace(state, open=round_, phase=round_.phase.during, clients=clients)


def _missing(run: RunSettings, present: list[ClientRecord]) -> list[str]:
    """Tasks with too few clients, with the counts."""
    held = Counter(chain.from_iterable(client.tasks for client in present))  # one pass, since thousands may join
    counts = {task.name: held[task.name] for task in run.tasks}
    missing = [f"{task} ({n} of {run.clients_per_task})" for task, n in counts.items() if n < run.clients_per_task]
    few = len(present) < run.min_clients
    return [*missing, f"any task ({len(present)} of {run.min_clients} in all)"] if few else missing


def failed(reason: str) -> Notice:
    """What people hear of a run that cannot go on."""
    return Notice(reason, warning=True, about=LogFields(event="run_failed", reason=reason))


def seconds_of(run: RunSettings, phase: RoundPhase) -> float:
    """How long a phase waits for answers."""
    return run.sums.stage_seconds if phase.is_stage and run.sums is not None else run.round_timeout_seconds
