"""Who may take part, and with which tasks."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from common.errors import Reason, Refused
from common.orders import JoinRequest

TRAINS = "client"
"""The role of those who may join."""


@dataclass(frozen=True)
class Member:
    """What one client may do: None stands for no limit. `expires` is a day, as `2030-12-31`."""

    tasks: Collection[str] | None = None
    role: str = TRAINS
    expires: str | None = None


@dataclass(frozen=True)
class ClientList:
    """Who may join: where there are `members`, these alone."""

    members: Mapping[str, Member] | None = None

    def check(self, request: JoinRequest, today: str) -> None:
        """Check that a client may join on a day.

        Raises:
            Refused: it is not listed, may not train, has expired or brings other tasks.
        """
        client = request.client_id
        if self.members is not None:
            self._check_member(client, self.members.get(client), [task.name for task in request.tasks], today)

    def problem(self, client: str, tasks: Collection[str], today: str) -> str | None:
        """Why a client that has joined with these tasks may not stay; None if it may."""
        if self.members is None:
            return None
        try:
            self._check_member(client, self.members.get(client), tasks, today)
        except Refused as refusal:
            return refusal.message
        return None

    def changes(self, before: ClientList) -> list[str]:
        """A line for each difference to an earlier list."""
        lines = []
        if (self.members is None) != (before.members is None):
            lines.append("server.clients: " + ("every client may join now" if self.members is None else "a list now"))
        old, new = before.members or {}, self.members or {}
        for client in sorted({*old, *new}):
            if old.get(client) != new.get(client):
                how = "added" if client not in old else "changed" if client in new else "removed"
                lines.append(f"server.clients.{client}: {how}")
        return lines

    def _check_member(self, client: str, member: Member | None, tasks: Collection[str], today: str) -> None:
        remedy = "ask the coordinator's side to change server.clients"
        if member is None:
            raise Refused(Reason.NOT_ADMITTED, f"client '{client}' is not listed; {remedy}")
        if member.role != TRAINS:
            raise Refused(
                Reason.NOT_ADMITTED, f"client '{client}' is listed as {member.role}, which trains no task; {remedy}"
            )
        if member.expires is not None and today > member.expires:
            raise Refused(Reason.NOT_ADMITTED, f"client '{client}' might join until {member.expires}; {remedy}")
        outside = [] if member.tasks is None else [task for task in tasks if task not in member.tasks]
        if outside:
            raise Refused(Reason.NOT_ADMITTED, f"client '{client}' may not bring {', '.join(outside)}; {remedy}")


EVERYBODY = ClientList()
