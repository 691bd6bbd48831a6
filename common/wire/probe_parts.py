"""Probes and what answers them in messages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from common.bodies import Probe, ProbedRows
from common.probing import ProbeLosses, TaskLosses
from common.wire import checks, limits
from common.wire.codec import Codec, codec
from common.wire.gen import federation_pb2 as pb
from common.wire.scope_parts import pack_scope, unpack_candidate


def _pack_probe(value: Probe) -> pb.Probe:
    return pb.Probe(
        candidates=[pb.Candidate(scopes=map(pack_scope, candidate)) for candidate in value.candidates],
        rows=value.rows,
        batch_size=value.batch_size,
        seed=value.seed,
    )


def _unpack_probe(message: pb.Probe) -> Probe:
    candidates = checks.items(message.candidates, "candidates", limits.MAX_CANDIDATES)
    rows: dict[str, ProbedRows] = {name: name for name in get_args(ProbedRows)}
    return Probe(
        tuple(unpack_candidate(candidate.scopes, "candidates") for candidate in candidates),
        rows[checks.choice(rows, message.rows, "rows")],
        checks.count(message.batch_size, "batch_size", least=1),
        checks.count(message.seed, "seed", most=limits.MAX_SEED),
    )


def _pack_losses(value: ProbeLosses) -> pb.ProbeLosses:
    return pb.ProbeLosses(tasks=[pb.TaskLosses(**vars(found)) for found in value.tasks])


def _unpack_losses(message: pb.ProbeLosses) -> ProbeLosses:
    tasks = checks.items(message.tasks, "tasks", limits.MAX_TASKS)
    checks.distinct((found.task for found in tasks), "tasks")
    return ProbeLosses(
        tuple(
            TaskLosses(
                checks.task_name(found.task),
                checks.count(found.rows, "rows"),
                _numbers(found.losses, "losses"),
                _numbers(found.gains, "gains"),
                _numbers(found.squares, "squares"),
            )
            for found in tasks
        )
    )


def _numbers(values: Sequence[float], field: str) -> tuple[float, ...]:
    return tuple(checks.number(value, field) for value in checks.items(values, field, limits.MAX_CANDIDATES))


PROBE: Codec[Probe] = codec(pb.Probe, _pack_probe, _unpack_probe)
PROBE_LOSSES: Codec[ProbeLosses] = codec(pb.ProbeLosses, _pack_losses, _unpack_losses)
