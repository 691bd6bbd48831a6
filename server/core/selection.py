"""Which clients take part in a round, and with which of their tasks."""

from __future__ import annotations

from math import inf, log

from common.seeds import derive_seed
from server.core.closing import required
from server.core.privacy import comes_up
from server.core.state import ClientRecord, RunSettings


def select(run: RunSettings, present: list[ClientRecord], number: int) -> list[ClientRecord]:
    """A share `client_fraction` of every task's present clients, at least one per task, by id.

    The choice is a function of (seed, round, client id) alone, so it does not depend on who arrived first. A client
    with several tasks is in as soon as one of its tasks picks it. With a secret coin each client is in by its own toss.
    """
    if run.noise is not None and run.noise.is_sampled:
        noise = run.noise
        return [c for c in present if comes_up(noise.coin, number, c.client_id, noise.fraction)]
    chosen: set[str] = set()
    for task in run.tasks:
        holders = [client.client_id for client in present if task.name in client.tasks]
        holders.sort(key=lambda client: (derive_seed(run.seed, number, client, f"select {task.name}"), client))
        chosen.update(holders[: required(run.client_fraction, len(holders))])
    return [client for client in present if client.client_id in chosen]


def tasks_of_order(run: RunSettings, client: ClientRecord, number: int) -> tuple[str, ...]:
    """The tasks that a client trains in a round: `tasks_per_order` of those it has, by name.

    `rotate` takes them in turns, and clients begin with different ones. `examples` draws them without replacement, a
    task of n rows with probability proportional to n^a; a falls from 1 in the first round to 0 in the last (annealed
    sampling, Stickland and Murray 2019, section 3.2, where it ends at 0.2).
    """
    count = run.tasks_per_order
    if count is None or count >= len(client.tasks):
        return client.tasks
    if run.task_choice == "rotate":
        start = derive_seed(run.seed, client.client_id, "tasks") + (number - 1) * count
        return tuple(sorted(client.tasks[(start + step) % len(client.tasks)] for step in range(count)))
    power = max(run.num_rounds - number, 0) / max(run.num_rounds - 1, 1)

    def key(task: str) -> tuple[float, str]:
        """The largest keys log(u) / weight are a draw without replacement (Efraimidis and Spirakis 2006)."""
        chance = (derive_seed(run.seed, number, client.client_id, "tasks", task) + 1) / 2**63
        rows = client.examples.get(task, 0)
        return (log(chance) / rows**power if rows else -inf, task)

    return tuple(sorted(sorted(client.tasks, key=key)[-count:]))
