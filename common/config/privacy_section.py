"""What is promised about single clients or single rows, and the noise that keeps the promise: the section `privacy`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from common.bodies import LEAST_SCORES_NOISE, MOST_SCORES_NOISE
from common.config.values import Count, Section

Noise = Literal["none", "coordinator", "rows"]
OpenFraction = Annotated[float, Field(gt=0, lt=1)]
"""Above 0 and below 1."""


class PrivacySection(Section):
    """Gaussian noise with a ledger: of the coordinator (a whole client is protected), or of the clients (a row is).

    With `epsilon` alone the noise is found for all rounds of the run; with `noise_multiplier` alone there is no budget,
    and reports say what was spent.
    """

    noise: Noise = "none"
    """who adds it: none | coordinator (to sums; protects whole clients) | rows (each client, to its gradients; protects
    single rows from everybody)"""
    clip: Annotated[float, Field(gt=0)] = 1.0
    """longest update (coordinator), longest gradient of a row (rows); longer ones are shortened"""
    clip_quantile: OpenFraction | None = None
    """coordinator: the clip follows this quantile of the lengths of updates; null: it stays"""
    head_scale: Annotated[float, Field(gt=0)] = 1.0
    """coordinator: lengths of scopes of one task count divided by this, and have as much more noise"""
    epsilon: Annotated[float, Field(gt=0)] | None = None
    """the budget: nothing more is published or handed in once it is spent; null: no limit, noise_multiplier says all"""
    noise_multiplier: Annotated[float, Field(gt=0)] | None = None
    """standard deviation of the noise in units of the clip; null: the least that epsilon allows for num_rounds
    (rows: and for round_attempts - 1 orders that come to nothing)"""
    delta: OpenFraction = 1e-5
    """chance that epsilon does not cover; below one in as many as are protected"""
    sampling: Literal["all", "poisson"] = "all"
    """coordinator: who is asked: all (federation.client_fraction of them, in public) | poisson (each by a secret coin
    of that chance, which makes epsilon smaller)"""
    min_clients: Count = 5
    """coordinator: what fewer clients would train stays as it is"""
    scores: Literal["exact", "noisy", "none"] | None = None
    """losses and scores that leave a client: exact (epsilon does not cover them) | noisy (rows: counts of
    classifications alone, with noise) | none; null: exact, with rows none"""
    scores_noise: Annotated[float, Field(ge=LEAST_SCORES_NOISE, le=MOST_SCORES_NOISE)] = 20.0
    """scores: noisy: standard deviation of the noise, in validation rows"""

    @property
    def of_coordinator(self) -> bool:
        """Whether the coordinator adds noise."""
        return self.noise == "coordinator"

    @property
    def of_rows(self) -> bool:
        """Whether clients add noise to their gradients."""
        return self.noise == "rows"

    @property
    def noises_scores(self) -> bool:
        """Whether scores are counts with noise."""
        return self.scores == "noisy"

    @property
    def keeps_scores(self) -> bool:
        """Whether losses and scores stay with the client."""
        return (self.scores or ("none" if self.of_rows else "exact")) == "none"
