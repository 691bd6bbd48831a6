"""What tasks are: a file for each kind, one table of them, and the definition that both sides compare."""

from common.tasks.definition import TaskDefinition
from common.tasks.kind import TaskKind
from common.tasks.table import KNOWN_TASKS, TASK_KINDS, is_better, lower_is_better

__all__ = ["KNOWN_TASKS", "TASK_KINDS", "TaskDefinition", "TaskKind", "is_better", "lower_is_better"]
