"""Where the noise of a run comes from: its key, its first ledger, and what core and aggregation must know of them."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

from common.config import Config
from common.errors import RunFolderError
from common.privacy.accounting import Spending, releases_within
from common.privacy.noise import KEY_BYTES, derive
from common.privacy.promise import mechanism_of
from common.privacy.secret import secret_at
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
        key = secret_at(path)
    except OSError as error:
        raise unwritable(path, error) from None
    if len(key) != KEY_BYTES:
        raise RunFolderError(f"{path}: {len(key)} bytes are no key; delete it, and the run goes on with a new one")
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
    return NoiseRules(section.min_clients, config.federation.client_fraction, coin, section.head_scale)


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
    limits = {}
    for name in names:
        before = Spending()
        for charges in earlier:
            before = before.add(charges.mechanism, charges.releases.get(name, 0))
        limits[name] = releases_within(section.epsilon, section.delta, mechanism, before)
    return Ledger(mechanism, section.delta, section.clip, limit, earlier=earlier, limits=limits)


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
