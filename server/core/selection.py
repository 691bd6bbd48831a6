"""Which clients take part in a round."""

from __future__ import annotations

from common.seeds import derive_seed
from server.core.closing import required
from server.core.state import Member, Rules


def select(rules: Rules, present: list[Member], number: int) -> list[Member]:
    """A share `client_fraction` of every task's present clients, at least one per task, by id.

    The choice is a function of (seed, round, client id) alone, so it does not depend on who arrived first. A client
    with several tasks is in as soon as one of its tasks picks it.
    """
    chosen: set[str] = set()
    for task in rules.tasks:
        holders = [member.client_id for member in present if task.name in member.tasks]
        holders.sort(key=lambda client: (derive_seed(rules.seed, number, client, f"select {task.name}"), client))
        chosen.update(holders[: required(rules.client_fraction, len(holders))])
    return [member for member in present if member.client_id in chosen]
