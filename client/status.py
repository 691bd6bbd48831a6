"""What is asked of a running coordinator without taking part: what it says of itself, and to leave a client out.

Needs no torch: health checks ask often.
"""

from __future__ import annotations

import json
from dataclasses import replace

from client.transport.connection import open_port
from common.config import Config
from common.orders import FederationStatus

STATUS_SECONDS = 5.0


async def ask_status(config: Config) -> FederationStatus:
    """Ask, page by page until all clients are listed.

    Raises:
        UnreachableError: nobody answers.
    """
    port = open_port(config, "operator", STATUS_SECONDS)
    try:
        status = page = await port.status()
        while page.more and page.clients:
            page = await port.status(page.clients[-1].client_id)
            status = replace(status, clients=status.clients + page.clients)
    finally:
        await port.close()
    return status


async def withdraw(config: Config, client_id: str) -> None:
    """Have a client left out for good.

    Raises:
        UnreachableError: nobody answers.
        Refused: nobody knows this client.
        WireError: the id cannot be one.
    """
    port = open_port(config, "operator", STATUS_SECONDS)
    try:
        await port.withdraw(client_id)
    finally:
        await port.close()


def as_lines(status: FederationStatus) -> list[str]:
    """The status for people."""
    lines = [
        f"run '{status.run_name}' ({status.run_id}): {status.phase}, round {status.round} of {status.num_rounds}",
        f"waits for {status.waiting_for}",
    ]
    for client in status.clients:
        there = client.activity or ("here" if client.present else "away")
        lines.append(f"  {client.client_id}: {', '.join(client.tasks)}; {there}")
    return lines


def as_json(status: FederationStatus) -> str:
    """The status for machines, as JSON."""
    found = {
        "run": status.run_name,
        "run_id": status.run_id,
        "phase": status.phase,
        "round": status.round,
        "num_rounds": status.num_rounds,
        "waiting_for": status.waiting_for,
        "clients": [
            {
                "client_id": client.client_id,
                "tasks": list(client.tasks),
                "present": client.present,
                "activity": client.activity,
            }
            for client in status.clients
        ],
    }
    return json.dumps(found)
