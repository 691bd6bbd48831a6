"""What configurations and messages may hold at most, and what names look like: one set for both.

So a configuration that is taken can be sent, and a decoder's memory is bounded, whatever bytes it is given.
"""

from __future__ import annotations

import re

CONTROL_BYTES = 1 << 20
"""A control message; a chunk of a stream carries `common.ports.CHUNK_BYTES`."""

MAX_TASKS = 1024
MAX_LABELS = 1 << 14
"""Labels of all tasks together: a client's counts per label must fit into one message beside everything else."""
DEFINITION_BYTES = 1 << 19
"""The definitions of all tasks, as `definition_bytes` counts them: they travel together, in one message."""
MAX_FEATURES = 1 << 26
MAX_DIMENSIONS = 8
"""Of a row of numbers."""
MAX_NAMES = 64
"""Names of features that travel; their digest stands for all of them."""
NAMES_CHARS = 1 << 16
"""Characters of all names of features in one message."""
MAX_METRICS = 64
MAX_SUMS = 1 << 15
"""Numbers that metrics of all tasks together need beside counts and moments: scores of two models travel at once."""
MAX_SCOPES = 4096
MAX_CANDIDATES = 256
"""That one order may ask to compare."""
MAX_RULES = 4096
RULES_BYTES = 1 << 17
"""The rules of a sharing plan, written out for the encoder's layers."""
MAX_CODECS = 64
MAX_PARTS = 64
MAX_CLIENTS = 1 << 16
MAX_CIRCLES = 4096
"""That one client is in."""
MAX_CELLS = 1 << 14
"""Of one circle: a scope may have one for each task."""
MAX_BITS = 131
"""Behind the point of numbers in a sum."""
LETTER_BYTES = 1 << 10

MAX_COUNT = (1 << 53) - 1
"""Any integer but a seed: the largest that a float64 sum takes without rounding."""
MAX_SEED = (1 << 63) - 1
MAX_EXAMPLES = (1 << 29) - 1
"""Rows of a client's task: so many times a float32 are exact in a float64."""

MAX_SECONDS = 366.0 * 86400
"""Any time to wait."""

NAME_CHARS = 64
"""A task, a client or a group of tasks."""
RUN_NAME_CHARS = 128
LINE_CHARS = 1000
"""A line for a person; longer ones are cut when they are sent."""
LABEL_CHARS = 256
RULE_CHARS = 512
"""A pattern of a sharing plan, or the scope that it stands for."""
SCOPE_CHARS = 1024
"""One part of a scope's name, such as the tasks of a member."""
MAX_GROUP_LEVELS = 8
CONFIG_CHARS = 1 << 16

TASK_NAME = re.compile(rf"[A-Za-z0-9_-]{{1,{NAME_CHARS}}}")
CIRCLE_NAME = re.compile(r"[0-9A-Za-z_-]{1,64}")
SCOPE_NAME = re.compile(rf"(?!.*\.\.)[a-z]{{1,64}}(/(?!\.)[A-Za-z0-9_.+-]{{1,{SCOPE_CHARS}}}){{0,11}}")


def definition_bytes(name: str, labels: tuple[str, ...], weights: int = 0) -> int:
    """At most so many bytes a task's definition, with so many class weights, takes in a message."""
    return 256 + len(name) + 8 * weights + sum(len(label.encode("utf-8", "replace")) + 3 for label in labels)
