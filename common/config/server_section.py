"""The section `server`: where the coordinator listens, how it proves who it is, and who may join."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from common.config.values import ClientId, Count, Host, Location, Section, TaskName


def _day(value: str) -> str:
    try:
        return date.fromisoformat(value).isoformat()
    except ValueError:
        raise ValueError(f"'{value[:60]}' is no date; write e.g. 2030-12-31") from None


class ServerTLSSection(Section):
    """PEM files of the coordinator; with `client_ca` clients must show a certificate of that authority."""

    certificate: Location | None = None
    """PEM file; together with key"""
    key: Location | None = None
    """PEM file"""
    client_ca: Location | None = None
    """PEM file; clients must show a certificate signed by this authority, and speak for the client that it names"""
    any_client: bool = False
    """true: beyond loopback, too, clients need no certificate, so that a client is whom it says"""


class RosterSection(Section):
    """What one client may do; null stands for no limit."""

    tasks: Annotated[tuple[TaskName, ...], Field(strict=False)] | None = None
    """that it may bring; null: all"""
    role: Literal["client", "observer", "operator"] = "client"
    """client (trains) | observer, operator (may not join; they ask for the status)"""
    expires: Annotated[str, AfterValidator(_day)] | None = None
    """last day on which it may join, in UTC, such as 2030-12-31; null: never"""


class ServerSection(Section):
    """Where the coordinator listens (port 0: any free one), how it proves who it is, and who may join."""

    host: Host = "127.0.0.1"
    """where to listen; other than loopback needs tls with client_ca, or insecure"""
    port: Annotated[int, Field(ge=0, le=65535)] = 50051
    """0: any free one"""
    tls: ServerTLSSection = ServerTLSSection.model_construct()
    """how it proves who it is, and clients who they are"""
    insecure: bool = False
    """true: listen without encryption in a network that you trust"""
    max_connections: Count | None = None
    """at a time; more are turned away. null: up to 4096, as many as the limit of open files leaves room for"""
    clients: dict[ClientId, RosterSection] | None = None
    """who may join, by id, e.g. {clinic-a: {tasks: [sst2], expires: 2030-12-31}}; null: everybody"""
