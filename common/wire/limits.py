"""What a message may hold at most. Bounds the memory that a decoder needs, whatever bytes it is given."""

from __future__ import annotations

CONTROL_BYTES = 1 << 20
"""A control message; a piece of a stream carries `common.ports.PIECE_BYTES`."""

MAX_TASKS = 1024
MAX_LABELS = 10_000
MAX_FEATURES = 1_000_000
MAX_NAMES = 64
"""Names of features that travel; their digest stands for all of them."""
NAMES_CHARS = 1 << 16
"""Characters of all names of features in one message."""
MAX_METRICS = 64
MAX_SCOPES = 4096
MAX_RULES = 4096
MAX_CAPABILITIES = 64
MAX_MEMBERS = 1 << 16

MAX_COUNT = (1 << 53) - 1
"""Any integer but a seed: the largest that a float64 sum takes without rounding."""
MAX_SEED = (1 << 63) - 1

LINE_CHARS = 1000
"""A line for a person; longer ones are cut when they are sent."""
LABEL_CHARS = 256
RULE_CHARS = 512
CONFIG_CHARS = 1 << 19
