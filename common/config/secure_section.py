"""Sums in place of single updates: the section `secure_aggregation`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from common.config.values import Count, Location, Seconds, Section, Share
from common.secure.terms import SumTerms


class SecureAggregationSection(Section):
    """Whether the coordinator gets sums over several clients alone; `secure_aggregation: true` is the short form.

    Updates, losses, scores and row counts become integers with a mask each; the masks cancel in the sum. All but
    `stage_seconds` and `members` must be the same at the coordinator and at every client.
    """

    enabled: bool = False
    """true: updates, losses, scores and row counts leave a client in masked sums alone; short form
    secure_aggregation: true"""
    min_clients: Count = 3
    """the fewest clients in a sum; what fewer would train stays as it is. 10 or more where clients take few steps"""
    masks: bool = True
    """false: the same sums without masks, which hides nothing; to compare"""
    largest_change: Annotated[float, Field(ge=1e-6, le=1e6)] = 0.5
    """of one parameter in a round; a client shortens a longer update as a whole"""
    largest_weight: Count = 1000
    """rows that a client counts with at most, per task"""
    dropouts: Share = 0.05
    """share of clients that may go during a round; shapes who masks with whom beyond 64 clients"""
    corrupt: Share = 0.1
    """share of clients that may work together with the coordinator; shapes who masks with whom beyond 64 clients"""
    stage_seconds: Seconds = 60.0
    """how long the coordinator waits for keys, shares and openings"""
    identities: Literal["none", "pinned"] = "none"
    """how clients know each other: none (by the coordinator's word) | pinned (by the keys in members)"""
    members: Location | None = None
    """pinned: file with a line per client, its id and its public key (--mode identity prints them)"""

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, body: Any) -> Any:
        return {"enabled": body} if isinstance(body, bool) else body

    @property
    def masked(self) -> bool:
        """Whether clients mask what they send."""
        return self.enabled and self.masks

    @property
    def pinned(self) -> bool:
        """Whether clients know each other's identities."""
        return self.masked and self.identities == "pinned"

    @property
    def terms(self) -> SumTerms | None:
        """What all clients are told alike; None: updates travel as they are."""
        if not self.enabled:
            return None
        return SumTerms(
            self.min_clients,
            self.masks,
            self.largest_change,
            self.largest_weight,
            self.corrupt,
            self.dropouts,
            self.pinned,
        )
