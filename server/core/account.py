"""A closed round in one line of the log: who trained what, and who moved it the most."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from common.log_fields import LogFields
from common.parameters.scope import Scope
from server.core.conduct import Norms
from server.core.effects import Effect, Notice
from server.core.open_round import OpenRound, OrderState
from server.core.state import RunSettings
from server.core.weighing import step_shares

MOST_NAMES = 6
"""Up to so many clients are named in a log line."""


def account(run: RunSettings, round_: OpenRound, totals: Mapping[str, int]) -> str:
    """How many clients trained each task, and what was aggregated from whom."""
    accepted = [order for order in round_.orders.values() if order.state is OrderState.ACCEPTED]
    held = {task.name: sum(task.name in order.tasks for order in accepted) for task in run.tasks}
    parts = []
    changed = [Scope.parse(name) for name in sorted(totals)]
    for scope in (str(scope) for scope in changed if totals[str(scope)] and not (scope.is_member or scope.is_derived)):
        who = sorted(order.client_id for order in accepted if scope in order.weights)
        names = f" ({', '.join(who)})" if len(who) <= MOST_NAMES else ""
        parts.append(f"{scope}: {run.tensors.get(Scope.parse(scope).template, 0)} tensors from {len(who)}{names}")
    copies = Counter(scope.template for scope in changed if scope.is_member and totals[str(scope)])
    parts += [
        f"{name}: {run.tensors.get(name, 0)} tensors, {count} members' own" for name, count in sorted(copies.items())
    ]
    known = {name for name in run.schemas if not Scope.parse(name).is_template}
    kept = sorted(known.union(*(order.weights for order in accepted)) - set(totals))
    tail = f"; kept: {', '.join(kept)}" if kept else ""
    clients = ", ".join(f"{task} {count}" for task, count in held.items())
    head = f"round {round_.number} closed with {len(accepted)} of {len(round_.orders)} updates"
    if run.dual is not None:
        parts.append(f"{sum(not scope.is_derived for scope in changed)} heads made of their supports")
    what = "; ".join(parts) or ("nothing changed" if run.schemas else "nothing is shared")
    return f"{head}, clients per task: {clients}; {what}{tail}{_largest_share(run, round_, totals)}"


def named(clients: Sequence[str]) -> str:
    """The first of them by name, and how many more there are."""
    more = f" and {len(clients) - MOST_NAMES} more" if len(clients) > MOST_NAMES else ""
    return ", ".join(clients[:MOST_NAMES]) + more


def outliers_of(norms: Norms) -> list[Effect]:
    """Who sent an update that is much longer than the others' of its round."""
    if not norms.outliers or norms.median is None:
        return []
    times = [f"{name} ({norms.lengths[name] / norms.median:.3g} times)" for name in norms.outliers]
    text = f"round {norms.round}: updates much longer than the median {norms.median:.3g}: {named(times)}"
    text += "; aggregation.norm_bound shortens such"
    about = LogFields(event="outliers", round=norms.round, client=",".join(norms.outliers[:MOST_NAMES]))
    return [Notice(text, warning=True, about=about)]


def _largest_share(run: RunSettings, round_: OpenRound, totals: Mapping[str, int]) -> str:
    """Who moved something that several clients trained the most."""
    shares = step_shares(run, round_, totals)
    found = [(share, label, who) for label, of in shares.items() if len(of) > 1 for who, share in of.items()]
    if not found:
        return ""
    share, label, who = max(found)
    return f"; largest share of a step: {who} {share:.0%} of {label}"
