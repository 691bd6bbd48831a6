"""Where the noise of a run comes from: its key, its first ledger, and what core and aggregation must know of them."""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path

from common.config import Config
from common.errors import RunFolderError
from common.privacy.accounting import Mechanism, Spending, releases_within
from common.privacy.noise import KEY_BYTES, derive
from common.privacy.promise import mechanism_of
from server.aggregation.noise import NoiseSettings
from server.core.phases import Phase
from server.core.privacy_facts import Charges, Ledger, NoiseRules
from server.core.state import FederationState
from server.runs.run_folder import RunFolder
from server.storage.files import unwritable
from server.storage.journal import Journal

log = logging.getLogger("fedmtl.server")

KEY = "privacy.key"
"""In the run folder, for the coordinator alone; it is in no journal, configuration, log or export."""
_COIN = "coin"


def key_of(folder: RunFolder) -> bytes:
    """The run's secret; at first use it comes from the operating system and is durable before it is used.

    Raises:
        RunFolderError: it cannot be read or written, or is no key.
    """
    path = folder.path / KEY
    try:
        return _require_key(path, path.read_bytes()) if path.exists() else _new_key(path)
    except OSError as error:
        raise unwritable(path, error) from None


def _require_key(path: Path, key: bytes) -> bytes:
    if len(key) != KEY_BYTES:
        raise RunFolderError(f"{path}: {len(key)} bytes are no key; delete it, and the run goes on with a new one")
    return key


def _new_key(path: Path) -> bytes:
    key, aside = os.urandom(KEY_BYTES), path.with_suffix(".new")
    aside.unlink(missing_ok=True)
    with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(key)
        file.flush()
        os.fsync(file.fileno())
    aside.rename(path)
    place = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(place)
    finally:
        os.close(place)
    return key


def forget_key(folder: RunFolder, state: FederationState) -> None:
    """Delete the secret of a run that is finished: nothing is published any more that would need the same noise."""
    if state.phase is Phase.FINISHED:
        (folder.path / KEY).unlink(missing_ok=True)


def rules_of(config: Config, key: bytes) -> NoiseRules | None:
    """What the core must know; None without noise of the coordinator."""
    section = config.privacy
    if not section.of_coordinator:
        return None
    nothing = hashlib.sha256().digest()
    coin = derive(key, _COIN, nothing) if section.sampling == "poisson" else b""
    return NoiseRules(section.min_clients, config.federation.client_fraction, coin)


def noise_settings(config: Config, key: bytes) -> NoiseSettings | None:
    """What aggregation must know; None without noise of the coordinator."""
    section = config.privacy
    return NoiseSettings(key, section.head_scale, section.clip_quantile) if section.of_coordinator else None


def first_ledger(config: Config, earlier: tuple[Charges, ...] = ()) -> Ledger | None:
    """The ledger that a run begins with, which fixes its noise and its budget; None without noise of the coordinator.

    `earlier` is what the run that it starts from has published about the same clients.
    """
    section = config.privacy
    if not section.of_coordinator:
        return None
    mechanism = mechanism_of(config)
    if section.epsilon is None:
        return Ledger(mechanism, section.delta, section.clip, earlier=earlier)
    limit = releases_within(section.epsilon, section.delta, mechanism)
    names = sorted({client for charges in earlier for client in charges.releases})
    limits = {name: _limit_after(section.epsilon, section.delta, mechanism, limit, earlier, name) for name in names}
    return Ledger(mechanism, section.delta, section.clip, limit, earlier=earlier, limits=limits)


def _limit_after(
    epsilon: float, delta: float, mechanism: Mechanism, limit: int, earlier: tuple[Charges, ...], client: str
) -> int:
    """How many releases the budget has left for a client after its earlier charges."""
    before = Spending()
    for charges in earlier:
        before = before.add(charges.mechanism, charges.releases.get(client, 0))
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        if before.add(mechanism, middle).epsilon(delta) <= epsilon:
            low = middle
        else:
            high = middle - 1
    return low


def charges_before(config: Config) -> tuple[Charges, ...]:
    """What the run that this one starts from has published about clients; a warning where nobody counted."""
    if not config.privacy.of_coordinator or config.model.warm_start is None:
        return ()
    journal = Journal.read(RunFolder.open(Path(config.model.warm_start)).journal)
    try:
        ledger = journal.facts().ledger
    finally:
        journal.close()
    if ledger is None:
        log.warning("privacy: what the run in model.warm_start published is not counted, since it had no noise")
        return ()
    return (*ledger.earlier, Charges(ledger.mechanism, ledger.spent))
