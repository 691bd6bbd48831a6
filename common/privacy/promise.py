"""What a configuration promises about clients or rows, in numbers and in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt

from common.config import Config
from common.parameters.scope import Scope
from common.privacy.accounting import Mechanism, Spending, noise_multiplier_for

NOT_COVERED = (
    "Scores, losses, lengths of updates, row counts and seconds are exact and not covered by epsilon: "
    "do not publish them."
)
"""Goes with every report of a run with noise of the coordinator."""


def mechanism_of(config: Config) -> Mechanism:
    """The noise of every release of the coordinator: as written, or the least whose budget lasts for all rounds."""
    section = config.privacy
    chance = config.federation.client_fraction if section.sampling == "poisson" else 1.0
    found = section.noise_multiplier
    if found is None:
        assert section.epsilon is not None
        found = noise_multiplier_for(section.epsilon, section.delta, config.training.num_rounds, chance)
    return Mechanism(found, chance)


def promised(config: Config) -> str:
    """What noise of the coordinator promises at the end of the run, in one sentence."""
    section, mechanism = config.privacy, mechanism_of(config)
    spent = Spending().add(mechanism, config.training.num_rounds).epsilon(section.delta)
    epsilon = spent if section.epsilon is None else min(spent, section.epsilon)
    return (
        f"updates of at most {section.clip:g} in all, sums with noise of {mechanism.noise_multiplier:g} times that: "
        f"(epsilon {epsilon:.3g}, delta {section.delta:g}) for a whole client after {config.training.num_rounds} rounds"
    )


@dataclass(frozen=True)
class NoiseShare:
    """How the noise of a scope's step compares with the longest step there can be."""

    scope: str
    parameters: int
    clients: int
    ratio: float
    """Length of the noise divided by that of the mean of updates that are all as long as the clip, one direction."""

    @property
    def line(self) -> str:
        """For people."""
        found = f"  {self.scope}: {self.parameters:,} parameters, {self.clients} clients: noise {self.ratio:.2g} times"
        return f"{found} the longest step"


def noise_shares(config: Config, sizes: Mapping[str, int]) -> list[NoiseShare]:
    """Of every scope that is published, with as few clients as the configuration allows a round to begin with.

    The ratio is z sqrt(d) / m for d parameters and m clients; the clip is in both lengths.
    """
    z = mechanism_of(config).noise_multiplier
    federation, least = config.federation, config.privacy.min_clients
    found = []
    for scope, size in sizes.items():
        most = federation.clients_per_task if Scope.parse(scope).task else federation.min_clients
        clients = max(most, least)
        found.append(NoiseShare(scope, size, clients, z * sqrt(size) / (clients * federation.client_fraction)))
    return found


REMEDY = (
    "Noise longer than every step leaves little to learn. Train less (client.trains: head or top_1, sharing.by_layer: "
    "true, sharing.plan: private_heads), ask more clients, or allow more epsilon or fewer rounds."
)
