"""Sums in place of single updates, as a run's core knows them: rules, identities, and the phases of its rounds."""

from __future__ import annotations

from pathlib import Path

from common.config import Config
from common.secure.members import read_members
from server.core.phases import (
    DUAL,
    MASKED,
    MASKED_PINNED,
    MASKED_PINNED_SCORING,
    MASKED_SCORING,
    PLAIN,
    PROBING,
    SCORING,
    RoundProtocol,
)
from server.core.sum_facts import SumRules


def sum_rules(config: Config) -> SumRules | None:
    """What does not change during a run; None where updates travel as they are.

    Raises:
        ConfigError: identities are pinned, and their file cannot be read.
    """
    section = config.secure_aggregation
    if section.terms is None:
        return None
    known = read_members(Path(section.members)) if section.pinned and section.members is not None else {}
    return SumRules(section.terms, section.stage_seconds, known)


def training_protocol(config: Config) -> RoundProtocol:
    """The phases of a round that trains."""
    section = config.secure_aggregation
    if section.masked:
        return MASKED_PINNED if section.pinned else MASKED
    if config.training.procedure.is_dual:
        return DUAL
    return PROBING if config.relation is not None and config.relation.probes is not None else PLAIN


def scoring_protocol(config: Config) -> RoundProtocol:
    """The phases of a round that scores."""
    section = config.secure_aggregation
    if section.masked:
        return MASKED_PINNED_SCORING if section.pinned else MASKED_SCORING
    return SCORING
