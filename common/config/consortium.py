"""The files from which keys and certificates are made: who takes part in a federation, and an invitation to one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, Field, ValidationError

from common.config.messages import explain
from common.config.values import Address, ClientId, Host, RunName, Section, TaskName
from common.config.yaml_text import dump, parse
from common.errors import ConfigError

S = TypeVar("S", bound=Section)

_HostList = Annotated[tuple[Host, ...], Field(strict=False, min_length=1)]
_TaskList = Annotated[tuple[TaskName, ...], Field(strict=False, min_length=1)]


def _some(value: dict[str, Any]) -> dict[str, Any]:
    if not value:
        raise ValueError("names nobody; write e.g. clients: {clinic-a: {tasks: [sst2]}}")
    return value


class CoordinatorPlace(Section):
    """Where clients find the coordinator."""

    hosts: _HostList
    """names and addresses by which clients may call it; invitations have the first"""
    port: Annotated[int, Field(ge=1, le=65535)] = 50051
    """where it listens"""


class ConsortiumClient(Section):
    """One client of a consortium."""

    tasks: _TaskList
    """that it may train"""


class Consortium(Section):
    """Who takes part in a federation."""

    name: RunName
    """of the federation; the certificate of its authority has it"""
    coordinator: CoordinatorPlace
    """where it is"""
    clients: Annotated[dict[ClientId, ConsortiumClient], AfterValidator(_some)]
    """by their ids"""

    @property
    def address(self) -> str:
        """HOST:PORT of the coordinator."""
        host = self.coordinator.hosts[0]
        return f"[{host}]:{self.coordinator.port}" if ":" in host else f"{host}:{self.coordinator.port}"


class Invitation(Section):
    """What a site must know to make its key and ask for a certificate."""

    name: RunName
    """of the federation"""
    server: Address
    """HOST:PORT of its coordinator"""
    client_id: ClientId
    """whom the invitation is for"""
    tasks: _TaskList
    """that it may train"""
    ca: str
    """certificate of the federation's authority, PEM"""

    def text(self) -> str:
        """The file."""
        return dump(self.model_dump(mode="json"))


def read_consortium(path: Path) -> Consortium:
    """Read who takes part.

    Raises:
        ConfigError: the file cannot be read, or one line for each problem in it.
    """
    return _read(path, Consortium, "a consortium: name, coordinator and clients")


def read_invitation(path: Path) -> Invitation:
    """Read an invitation.

    Raises:
        ConfigError: the file cannot be read, or one line for each problem in it.
    """
    return _read(path, Invitation, "an invitation, as --mode provision writes it")


def _read(path: Path, kind: type[S], what: str) -> S:
    try:
        found, problems = parse(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); name the file of {what}") from None
    except ValueError as error:  # no UTF-8, or no YAML
        raise ConfigError(f"{path}: {error}; name the file of {what}") from None
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: not a mapping; name the file of {what}")
    try:
        read = kind.model_validate(found)
    except ValidationError as error:
        problems += explain(error, kind)
    if problems:
        raise ConfigError(*(f"{path}: {problem}" for problem in problems))
    return read
