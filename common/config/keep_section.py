"""Which versions of the model a run keeps besides the newest ones: the section `model.keep`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from common.config.values import CountOrZero, Section

if TYPE_CHECKING:
    from common.config.schema import Config

NONE, MEAN, TASKS = "none", "mean", "tasks"


class KeepSection(Section):
    """Versions of the model that are kept besides the newest two, for --version of evaluate, predict and export."""

    best: str = NONE
    """the version that scored best: none | mean (over tasks, of their first metrics) | tasks (that, and each task's
    own) | <task>/<metric>"""
    every: CountOrZero = 0
    """every n-th version; 0: none"""


def problems(config: Config) -> list[str]:
    """What `best` names and the run does not have."""
    best = config.model.keep.best
    if best in (NONE, MEAN, TASKS):
        return []
    name, _, metric = best.partition("/")
    section = config.tasks.get(name)
    if section is None:
        remedy = f"write {NONE}, {MEAN}, {TASKS}, or <task>/<metric> with one of {', '.join(config.tasks)}"
        return [f"model.keep.best: '{best}' names no task; {remedy}"]
    if section.problems(name):
        return []
    metrics = (*section.definition(name).metrics, "loss")
    if metric in metrics:
        return []
    return [f"model.keep.best: '{best}' is no metric of {name}; write {name}/ and one of {', '.join(metrics)}"]


def patience(config: Config) -> list[str]:
    """Why nobody could say whether a version is better."""
    unscored = [name for name, section in config.tasks.items() if section.val_samples == 0 and not section.auxiliary]
    if not config.training.patience or not unscored:
        return []
    return [f"tasks.{unscored[0]}.val_samples: 0 leaves training.patience nothing to compare by; raise it"]
