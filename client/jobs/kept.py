"""What an agent writes to its disk in the course of an order, and reads from there."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import Tensor

from client.jobs.job import JobResult
from client.jobs.synchronizer import fill
from client.state.store import RunStore
from common.bodies import ScopeVersion
from common.errors import StateError
from common.orders import Session
from common.parameters.schema import ParameterSchema
from common.parameters.scope import is_private
from common.ports import CoordinatorPort, fits_inline

log = logging.getLogger("fedmtl.client")

T = TypeVar("T")

SHORTAGE_SECONDS = 60.0
"""How long a client tries to write its update while the disk is full or too many files are open."""
SHORTAGE_PAUSE_SECONDS = 1.0

_NOTHING = torch.empty(0)


async def private_values(
    port: CoordinatorPort, session: Session, schemas: Mapping[str, ParameterSchema], store: RunStore
) -> Mapping[str, Tensor]:
    """What a client keeps of its private scopes; what is absent begins with the coordinator's initial values.

    Absent are all of a new task's scopes, and the end of a scope that grew with a task that joined the federation.

    Raises:
        StateError: the values are damaged, or cannot be written.
    """
    kept, absent = dict(store.private() or {}), {}
    for scope in filter(is_private, schemas):
        known, size = kept.get(scope, _NOTHING), schemas[scope].size
        if len(known) < size:
            absent[scope] = torch.empty(size)
            await fill(absent[scope], port.fetch(session, ScopeVersion(scope, 0), 0), scope)
            absent[scope][: len(known)] = known
    if absent:
        if store.returning and not kept:
            log.warning(
                "private values of %s are not in this client's state folder any more: they begin anew with the "
                "coordinator's initial values, and what this client alone had learnt in run %s is lost",
                ", ".join(absent),
                session.run_id,
            )
        kept |= absent
        store.start_private(kept)
    return kept


async def keep(store: RunStore, result: JobResult, go_on: Callable[[], None]) -> None:
    """Write an update, with what the client keeps, to the disk.

    Args:
        store: where to.
        result: what is written.
        go_on: see `patiently`.

    Raises:
        StateError: it cannot be written.
    """
    answer, inline = result.answer, fits_inline(result.answer) and not result.state
    await patiently(lambda: store.save(answer, result.state), go_on, inline)


async def patiently(write: Callable[[], T], go_on: Callable[[], None], inline: bool = False) -> T:
    """Write to the disk, and what that gives; a shortage that may pass is waited for.

    Args:
        write: does it.
        go_on: called after every pause; raises to end the wait.
        inline: whether it is written sooner than handed over to a thread.

    Raises:
        StateError: it cannot be written.
    """
    loop = asyncio.get_running_loop()
    until, waits = loop.time() + SHORTAGE_SECONDS, False
    while True:
        try:
            return write() if inline else await asyncio.to_thread(write)
        except StateError as error:
            if not error.passing or loop.time() >= until:
                raise
            if not waits:
                log.warning("%s; trying again for %g s", error, SHORTAGE_SECONDS)
            waits = True
        await asyncio.sleep(SHORTAGE_PAUSE_SECONDS)
        go_on()
