"""The report: everything worth knowing about a run, derived from the journal alone."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import replace
from typing import Any

from common.orders import TaskResult
from common.statistics import merge
from common.targets import TargetUnits
from common.tasks import TaskDefinition
from server.core.conduct import Norms
from server.core.dual_facts import Certificate
from server.core.effects import Guarded, TaskCosines
from server.core.facts import Best, RunBegan, RunFacts
from server.core.open_round import OpenOrder, OpenRound, OrderState
from server.core.privacy_facts import Ledger
from server.core.state import ClientRecord, Related
from server.core.weighing import Shares
from server.reporting.relations import probe_costs, relation_reports
from server.reporting.shares import largest_shares, mean_shares, without_withdrawn
from server.reporting.values import (
    CertificateReport,
    ClientReport,
    CosineMatrix,
    GuardReport,
    OwnScores,
    Personalisation,
    PrivacyReport,
    Report,
    RoundCosines,
    RoundNorms,
    RoundScores,
    RoundShares,
    Scores,
    SumsReport,
    TaskReport,
    UploadTotals,
)

ERRORS = frozenset({"rmse", "mse", "mae"})
"""In the units of a task's targets, or their squares."""


MOST_LENGTHS = 100
"""Up to so many clients the lengths of all their updates are in the report."""


def round_scores(tasks: Iterable[TaskDefinition], round_: OpenRound) -> dict[str, RoundScores]:
    """Per task: metrics of the model that the round *started from*, on the validation rows of those who answered.

    Also how many validation rows and clients that was, and the mean training loss during the round under its own
    name, since it is not a score of the published model.
    """
    scores = {}
    for task in tasks:
        results = _results(round_, task.name)
        parts = [result.validation for result in results if result.validation is not None]
        own = [result.personal for result in results if result.personal is not None]
        loss = _train_loss(results)
        if not (parts or own or loss is not None):
            continue
        total = merge(parts) if parts else None
        scores[task.name] = RoundScores(
            round_.version,
            {} if total is None else _rounded(task.summarise(total)),
            None if total is None else total.examples,
            _count_of(round_, parts) or None,
            OwnScores(_rounded(task.summarise(merge(own))), _count_of(round_, own)) if own else None,
            None if loss is None else round(loss, 6),
        )
    return scores


def uploads(rounds: Iterable[OpenRound]) -> dict[str, UploadTotals]:
    """How many accepted updates came with each codec, and the bytes of their payloads."""
    found: dict[str, UploadTotals] = {}
    for order in _accepted(rounds):
        before = found.get(order.codec, UploadTotals(0, 0))
        found[order.codec] = UploadTotals(before.updates + 1, before.bytes + order.nbytes)
    return dict(sorted(found.items()))


def _sent(rounds: Iterable[OpenRound]) -> Mapping[str, int]:
    """The bytes of these, by client."""
    found = Counter[str]()
    for order in _accepted(rounds):
        found[order.client_id] += order.nbytes
    return found


def _accepted(rounds: Iterable[OpenRound]) -> Iterator[OpenOrder]:
    """The accepted updates of all rounds."""
    orders = (order for round_ in rounds if round_.phase.publishes for order in round_.orders.values())
    return (order for order in orders if order.state is OrderState.ACCEPTED)


def certificate_report(found: Certificate) -> CertificateReport:
    """A certificate with its gap, in full."""
    return CertificateReport(found.version, found.primal, found.dual, found.gap, found.silent)


def thetas(round_: OpenRound) -> dict[str, dict[str, float]]:
    """Client -> task -> how much of its local dual problem a round left unsolved, at most; empty where none was."""
    found: dict[str, dict[str, float]] = {}
    for _, order in sorted(round_.orders.items()):
        for result in order.results if order.state is OrderState.ACCEPTED and round_.phase.publishes else ():
            if result.dual is not None:
                found.setdefault(order.client_id, {})[result.task] = round(result.dual.theta, 6)
    return found


def cosine_matrices(cosines: Iterable[TaskCosines]) -> dict[str, CosineMatrix]:
    """Scope -> the cosines of its tasks' steps, to six digits."""
    return {
        found.scope: CosineMatrix(found.tasks, [[round(v, 6) for v in row] for row in found.values])
        for found in cosines
    }


def norms_report(norms: Norms) -> RoundNorms:
    """The lengths of a round's updates; of many clients only quantiles and the longest outliers."""
    outliers = {name: norms.lengths[name] for name in norms.outliers[:MOST_LENGTHS]}
    count, found = len(norms.lengths), sorted(norms.lengths.values())
    if count <= MOST_LENGTHS:
        return RoundNorms(norms.round, count, norms.median, outliers, norms.lengths)
    quantiles = {f"{share:g}": found[round(share * (count - 1))] for share in (0, 0.25, 0.5, 0.75, 1)}
    return RoundNorms(norms.round, count, norms.median, outliers, quantiles=quantiles)


def _by_round(cosines: Iterable[TaskCosines]) -> list[RoundCosines]:
    found: dict[int, list[TaskCosines]] = {}
    for matrix in cosines:
        found.setdefault(matrix.round, []).append(matrix)
    return [RoundCosines(number, cosine_matrices(each)) for number, each in sorted(found.items())]


def build_report(
    facts: RunFacts,
    completed_rounds: int,
    tasks: Iterable[TaskDefinition],
    rounds: list[OpenRound],
    clients: list[ClientRecord],
    status: str,
    model_digest: str,
    cosines: Iterable[TaskCosines] = (),
    relations: Iterable[Related] = (),
    guarded: Iterable[Guarded] = (),
    influence: Sequence[tuple[int, Shares]] = (),
    best: Mapping[str, Best] | None = None,
    certificates: Iterable[Certificate] = (),
) -> Report:
    """The report, which names no client that was to be left out for good.

    `influence` has the clients' shares of the steps of every published round.
    """
    tasks = list(tasks)
    out, clients, influence = without_withdrawn(clients, influence)
    histories = _histories(tasks, rounds)
    trained, scores = [r for r in rounds if r.phase.publishes], client_scores(tasks, rounds)
    verdicts = guard_reports(tasks, guarded)
    began, sections = facts.began or RunBegan("", "", 0, ""), facts.settings.sections
    sent, sums, closed = _sent(rounds), _sums_report(sections), facts.conduct.quarantined
    if sums is not None:  # what clients joined with says that they have rows, not how many
        clients = [replace(client, examples={}) for client in clients]
    return Report(
        run=began.name,
        run_id=began.run_id,
        status=status,
        reason=facts.reason,
        rounds_completed=completed_rounds,
        seconds=facts.traffic.seconds,
        seed=began.seed,
        data=_data_sources(clients),
        encoder_init=began.encoder_init,
        sharing_plan=facts.settings.sharing_plan,
        **_repeated(sections),
        model_digest=model_digest,
        bytes_down=facts.traffic.bytes_down,
        bytes_up=facts.traffic.bytes_up,
        uploads=uploads(rounds),
        task_cosines=_by_round(cosines),
        step_shares=[RoundShares(number, largest_shares(shares)) for number, shares in influence],
        relations=relation_reports(list(relations)),
        tasks={
            t.name: _task_report(t, histories[t.name], trained, clients, verdicts.get(t.name), facts.units.get(t.name))
            for t in tasks
        },
        clients={m.client_id: _client_report(m, scores, influence, sent, closed) for m in clients},
        personalisation={n: found for n, found in personalisation(tasks, rounds).items() if n not in out},
        best=best or {},
        probes=probe_costs(rounds),
        privacy=_privacy_report(facts.ledger),
        norms=list(map(norms_report, facts.norms)) or None,
        secure_aggregation=sums,
        certificates=[certificate_report(found) for found in certificates],
    )


def _repeated(sections: Mapping[str, str]) -> dict[str, Any]:
    """The sections of the configuration that are shown as they are."""
    names = ("training", "aggregation", "guard", "blend", "relation")
    return {name: json.loads(sections.get(name, "{}")) for name in names}


def _privacy_report(ledger: Ledger | None) -> PrivacyReport | None:
    if ledger is None:
        return None
    noise, chance = ledger.mechanism.noise_multiplier, ledger.mechanism.sampling_probability
    spent = ledger.releases, round(ledger.epsilon(), 6), ledger.limit, bool(ledger.earlier)
    return PrivacyReport(noise, chance, ledger.clip, ledger.delta, *spent)


def _sums_report(sections: Mapping[str, str]) -> SumsReport | None:
    found = json.loads(sections.get("secure_aggregation", "{}"))
    return SumsReport(found["min_clients"], found["masks"], found["identities"]) if found.get("enabled") else None


def _histories(tasks: Sequence[TaskDefinition], rounds: Iterable[OpenRound]) -> dict[str, list[RoundScores]]:
    """Task -> the scores of each round, of its last attempt."""
    found: dict[str, list[RoundScores]] = {task.name: [] for task in tasks}
    for round_ in rounds:
        for name, scores in round_scores(tasks, round_).items():
            found[name] = [entry for entry in found[name] if entry.round != scores.round] + [scores]
    return found


def client_scores(tasks: Iterable[TaskDefinition], rounds: Iterable[OpenRound]) -> dict[str, dict[str, RoundScores]]:
    """Per client and task, on that client's validation rows: what the newest model that it scored reached."""
    definitions = {task.name: task for task in tasks}
    newest = {
        (order.client_id, result.task): (round_.version, result.validation)
        for round_ in rounds
        for order in round_.orders.values()
        for result in (order.results if order.state is OrderState.ACCEPTED else ())
        if result.validation is not None
    }
    found: dict[str, dict[str, RoundScores]] = {}
    for (client, task), (version, sums) in newest.items():
        found.setdefault(client, {})[task] = RoundScores(version, _rounded(definitions[task].summarise(sums)))
    return found


def personalisation(
    tasks: Iterable[TaskDefinition], rounds: Iterable[OpenRound]
) -> dict[str, dict[str, Personalisation]]:
    """Per client and task, on that client's validation rows: what the received and its own model scored last.

    Only clients with a model of their own are in it; `round` is the published model beside which it was scored.
    """
    definitions = {task.name: task for task in tasks}
    found: dict[str, dict[str, Personalisation]] = {}
    for round_ in rounds:
        for order in round_.orders.values():
            for result in order.results if order.state is OrderState.ACCEPTED else ():
                if result.personal is not None and result.validation is not None:
                    task = definitions[result.task]
                    scores = (_rounded(task.summarise(sums)) for sums in (result.validation, result.personal))
                    found.setdefault(order.client_id, {})[task.name] = Personalisation(round_.version, *scores)
    return dict(sorted(found.items()))


def guard_reports(tasks: Iterable[TaskDefinition], guarded: Iterable[Guarded]) -> dict[str, GuardReport]:
    """Per task that was compared: which model its clients use, after which round it fell back, the last scores."""
    metrics = {task.name: task.metrics[0] for task in tasks}
    found: dict[str, GuardReport] = {}
    for record in guarded:
        before = found[record.task].fallen_back if record.task in found else None
        found[record.task] = GuardReport(
            "isolated" if record.fell_back else "received",
            (record.round if before is None else before) if record.fell_back else None,
            metrics[record.task],
            **_rounded({"received": record.received, "isolated": record.isolated}),
        )
    return found


def _task_report(
    task: TaskDefinition,
    history: list[RoundScores],
    trained: list[OpenRound],
    clients: list[ClientRecord],
    guard: GuardReport | None,
    units: TargetUnits | None,
) -> TaskReport:
    own = [client for client in clients if task.name in client.tasks]
    # An entry with a training loss alone says nothing about a published model.
    newest = next((entry for entry in reversed(history) if entry.validation_examples is not None), None)
    used = newest.personal if newest and guard and guard.model == "isolated" else newest
    scores = used.scores if used else {}
    return TaskReport(
        type=task.type.name,
        auxiliary=task.auxiliary,
        metrics={name: scores.get(name) for name in (*task.metrics, "loss")},
        guard=guard,
        units=units if task.type.has_units else None,
        class_weights=dict(zip(task.labels, units.weights, strict=True)) if units and units.weights else None,
        scored_round=newest.round if newest else None,
        history=history,
        clients=sorted(client.client_id for client in own),
        examples=_examples(task.name, own, trained),
        rounds_trained=sum(bool(_results(round_, task.name)) for round_ in trained),
    )


def _examples(task: str, clients: Iterable[ClientRecord], trained: Iterable[OpenRound]) -> int:
    """The training rows of all clients, or of those in the newest sum."""
    summed = [found.examples for r in trained if r.sums is not None for found in r.sums.results if found.task == task]
    return summed[-1] if summed else sum(client.examples.get(task, 0) for client in clients)


def _client_report(
    client: ClientRecord,
    scores: Mapping[str, Mapping[str, RoundScores]],
    influence: Sequence[tuple[int, Shares]],
    sent: Mapping[str, int],
    quarantined: Mapping[str, str],
) -> ClientReport:
    name = client.client_id
    return ClientReport(
        tasks=client.tasks,
        trains=client.capabilities.capacity.trains,
        layers=client.capabilities.capacity.layers,
        lacks=client.capabilities.capacity.lacks,
        examples=client.examples,
        rounds=client.tally.completed,
        bytes=sent.get(name, 0),
        assigned=client.tally.assigned,
        refused=client.tally.refused,
        failed=client.tally.failed,
        expired=client.tally.expired,
        scores=scores.get(name, {}),
        step_shares=mean_shares(name, influence),
        quarantined=quarantined.get(name),
    )


def _data_sources(clients: list[ClientRecord]) -> str:
    """Where the clients say that their rows come from."""
    kinds = {client.capabilities.data for client in clients} - {""}
    return ", ".join("synthetic (built-in)" if kind == "builtin" else kind for kind in sorted(kinds))


def _results(round_: OpenRound, task: str) -> list[TaskResult]:
    """The accepted results for a task, by client id, so that sums do not depend on who came first; or their sum."""
    return [result for result in round_.results if result.task == task]


def _count_of(round_: OpenRound, parts: Sized) -> int | None:
    """How many clients these are of; sums do not tell how many had something to add."""
    return len(parts) if round_.sums is None else None


def _train_loss(results: list[TaskResult]) -> float | None:
    trained = [(r.train_loss, r.examples) for r in results if r.train_loss is not None and r.examples]
    weight = sum(examples for _, examples in trained)
    return sum(loss * examples for loss, examples in trained) / weight if weight else None


def _rounded(scores: Scores) -> dict[str, float | None]:
    """Six decimals; seven digits of an error, which is as small as the targets are."""
    digits = {name: float(f"{value:.7g}") for name, value in scores.items() if name in ERRORS and value is not None}
    return {name: None if value is None else digits.get(name, round(value, 6)) for name, value in scores.items()}
