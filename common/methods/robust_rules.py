"""Every robust rule."""

from __future__ import annotations

from common.methods.choice import table
from common.methods.own_rule import OwnRule
from common.methods.robust import Median, MultiKrum, RobustRule, TrimmedMean

ROBUST_RULES: dict[str, type[RobustRule]] = table(Median, TrimmedMean, MultiKrum, OwnRule)
