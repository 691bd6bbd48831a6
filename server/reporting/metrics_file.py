"""`metrics.jsonl`: a line for every round that was closed, also after a resume, each once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from common.clock import utc_text
from server.core.dual_facts import Certificate
from server.core.effects import RoundClosed, TaskCosines
from server.core.open_round import OpenRound
from server.reporting.report import certificate_report, cosine_matrices, thetas, uploads
from server.reporting.values import RoundScores, to_json

_OF_THE_ROUND = frozenset({"round", "local_training_loss_next_round"})


class MetricsFile:
    """Appends lines. `round` is the round that was closed; `version` is the model whose scores are in the line.

    A round is scored when it begins, so that `version` is then `round - 1`; the scoring after the last round
    (`kind` evaluate) has that round's number and version. The scores of a version are in one line, the first.
    """

    def __init__(self, path: Path, known: Iterable[OpenRound] | None, now: Callable[[], float]) -> None:
        """Go on with a file; only lines of `known` rounds stay (None: all): the others were not durable."""
        self._path = path
        self._now = now
        rounds = None if known is None else {(round_.phase.name, round_.number, round_.attempt) for round_ in known}
        self._versions = {line["version"] for line in _tidy(path, rounds) if "version" in line}

    def append(
        self,
        record: RoundClosed,
        scores: Mapping[str, RoundScores],
        cosines: Sequence[TaskCosines],
        certificate: Certificate | None = None,
    ) -> None:
        """Write a closed round.

        Raises:
            OSError: the disk does not take it; the file is as it was.
        """
        line = {"time": utc_text(self._now()), **_line(record, scores, cosines)}
        version = record.round.version
        found = {task: {name: value for name, value in to_json(row).items() if name not in _OF_THE_ROUND}
                 for task, row in scores.items()}  # fmt: skip
        # An attempt that was abandoned has the scores of a few; the next one has them all.
        whole = record.published is not None or not record.round.phase.publishes
        if whole and any(found.values()) and version not in self._versions:
            line |= {"version": version, "scores": {task: row for task, row in found.items() if row}}
            self._versions.add(version)
        if certificate is not None:
            line["certificate"] = to_json(certificate_report(certificate))
        _append(self._path, (json.dumps(line, allow_nan=False) + "\n").encode())


def times_in(path: Path) -> dict[tuple[str, int, int], str]:
    """When each round was closed, by its kind, number and attempt; nothing where there is no file."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return {(row["kind"], row["round"], row["attempt"]): row["time"] for row in map(json.loads, lines)}


def _line(record: RoundClosed, scores: Mapping[str, RoundScores], cosines: Sequence[TaskCosines]) -> dict[str, object]:
    round_ = record.round
    states = [order.state.value for order in round_.orders.values()]
    return {
        "kind": round_.phase.name,
        "round": round_.number,
        "attempt": round_.attempt,
        "published": record.published,
        "learning_rate": record.learning_rate,
        "orders": {state: states.count(state) for state in sorted(set(states))},
        "weights": dict(record.totals),
        "uploads": to_json(uploads([round_])),
        "training_loss": {
            task: loss for task, row in scores.items() if (loss := row.local_training_loss_next_round) is not None
        },
        **({"theta": theta} if (theta := thetas(round_)) else {}),
        **({"task_cosines": to_json(cosine_matrices(cosines))} if cosines else {}),
    }


def _append(path: Path, data: bytes) -> None:
    """Append all of it or nothing."""
    with path.open("ab", buffering=0) as file:
        start = file.tell()
        try:
            if file.write(data) != len(data):
                raise OSError(f"'{path}' takes no more")
        except OSError:
            with suppress(OSError):
                file.truncate(start)
            raise


def _tidy(path: Path, known: set[tuple[str, int, int]] | None) -> list[dict[str, Any]]:
    """The lines of a file, which then holds no others: none that was cut, unknown, or there twice."""
    if not path.is_file():
        return []
    kept: dict[tuple[str, int, int], dict[str, Any]] = {}
    before = path.read_bytes()
    for text in before.splitlines():
        try:
            line = json.loads(text)
            key = line["kind"], line["round"], line["attempt"]
        except (ValueError, KeyError, TypeError):
            continue
        if known is None or key in known:
            kept.pop(key, None)  # an attempt that was made again after a failed run
            kept[key] = line
    after = "".join(json.dumps(line) + "\n" for line in kept.values()).encode()
    if after != before:
        temporary = path.with_name(f".{path.name}.partial")
        temporary.write_bytes(after)
        temporary.replace(path)
    return list(kept.values())
