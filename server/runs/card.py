"""What a run folder knows of how its model was made, for model cards."""

from __future__ import annotations

import json

from common.config import Config
from common.config.values import NormMedian
from common.errors import RunFolderError
from common.export.card import CardFacts, CardScore
from common.methods.choice import Row
from common.methods.procedures import SDCA
from common.parameters.scope import is_private
from common.privacy.promise import NOT_COVERED, promised
from server.reporting.values import Report, RoundScores, from_json
from server.runs.run_folder import RunFolder
from server.runs.saved import SavedRun

REPORT = "report.json"
MOST_CLIENTS = 20


def card_facts(run: SavedRun, folder: RunFolder, task: str) -> CardFacts:
    """Configuration and report, as far as they are about one task; no more than the report says.

    Raises:
        RunFolderError: the report cannot be read.
    """
    config, report = run.config, _report(folder)
    rows = [
        ("run", config.run.name),
        ("round", f"{run.version} of {config.training.num_rounds}"),
        ("seed", str(config.run.seed)),
        ("sharing plan", config.sharing.plan),
        ("local training", _training(config)),
        ("aggregation", _aggregation(config)),
    ]
    private = [scope for scope in run.model.schemas if is_private(scope)]
    rows += [
        ("privacy", _privacy(config, report)),
        ("parameters that never left the clients", ", ".join(private) or "none"),
    ]
    if report is None:
        return CardFacts(rows)
    told = report.tasks[task]
    counts = [(name, client.examples[task]) for name, client in report.clients.items() if task in client.examples]
    shown = [f"{name}: {count}" for name, count in counts[:MOST_CLIENTS]]
    more = [f"{len(counts) - MOST_CLIENTS} more clients"] if len(counts) > MOST_CLIENTS else []
    rows += [
        ("data", report.data),
        ("first weights", report.encoder_init),
        ("training rows", f"{told.examples} ({', '.join([*shown, *more]) or 'the sum of the newest round'})"),
    ]
    rows += _certificate(report, run.version)
    scored = [found for found in told.history if found.round == run.version]
    scores = [
        CardScore(metric, value, found.round, _scored_on(found))
        for found in scored
        for metric, value in found.scores.items()
    ]
    return CardFacts(rows, scores)


def _scored_on(found: RoundScores) -> str:
    clients = "the clients in the sum" if found.clients is None else f"{found.clients} clients"
    return f"{found.validation_examples} validation rows of {clients}"


def _privacy(config: Config, report: Report | None) -> str:
    if config.secure_aggregation.enabled:
        return _sums(config)
    if config.privacy.of_rows:
        return _rows(config)
    if not config.privacy.of_coordinator:
        return "updates without noise and without masks; the coordinator saw each of them"
    found = report.privacy if report is not None else None
    spent = f"; epsilon {found.epsilon:.3g} after {found.releases} releases" if found is not None else ""
    alone = f"the coordinator saw each update without noise. {NOT_COVERED}"
    return f"{promised(config)}{spent}; {alone}"


def _rows(config: Config) -> str:
    section = config.privacy
    scores = f"; scores are counts with noise of {section.scores_noise:g} rows" if section.noises_scores else ""
    return f"each client hid its single rows in noise; the coordinator saw each update{scores}"


def _sums(config: Config) -> str:
    section = config.secure_aggregation
    if not section.masks:
        return "updates without noise and without masks; the coordinator could see each of them before it added them"
    known = f"identities {section.identities}"
    return f"updates masked; the coordinator saw sums of at least {section.min_clients} clients ({known})"


def _report(folder: RunFolder) -> Report | None:
    path = folder.path / REPORT
    if not path.is_file():
        return None
    try:
        return from_json(Report, json.loads(path.read_bytes()))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunFolderError(f"{path}: it cannot be read ({error}); --resume of the run writes it again") from None


def _aggregation(config: Config) -> str:
    robust = config.aggregation.robust
    rule = f", robust rule {robust.name}" if robust is not None else ""
    bound = config.aggregation.norm_bound
    length = f"{bound.median:g} times the median" if isinstance(bound, NormMedian) else f"{bound:g}" if bound else ""
    return f"weights {config.aggregation.weights.name}{rule}" + (
        f", updates of norm {length} at most" if length else ""
    )


def _certificate(report: Report, version: int) -> list[tuple[str, str]]:
    """The row about a version's objective, of a run whose versions have certificates."""
    found = next((found for found in report.certificates if found.version == version), None)
    if found is None:
        return []
    silent = f"; the loss of {found.silent} silent clients was bounded" if found.silent else ""
    above = f"at most {max(found.gap, 0.0):.2g} above the optimum"
    return [("certificate", f"objective {found.primal:.6g}, duality gap: {above}{silent}")]


def _with_numbers(row: Row | None) -> str:
    """A choice with those of its parameters that are numbers."""
    if row is None:
        return "none"
    told = ", ".join(f"{key} {value:g}" for key, value in row.values().items() if isinstance(value, int | float))
    return f"{row.name} ({told})" if told else row.name


def _training(config: Config) -> str:
    training = config.training
    if isinstance(training.procedure, SDCA):
        solver = training.procedure
        loss, relation = _with_numbers(solver.dual_loss()), _with_numbers(config.relation)
        each = f"strength {solver.strength:g}, {solver.passes:g} passes per round"
        return f"{solver.name}, loss {loss}, {each}, relation {relation}"
    rates = f"learning rate {training.learning_rate:g}, of heads that start from nothing {training.rate_of_heads():g}"
    steps = f"{training.optimizer.name}, {rates}, batches of {training.batch_size}"
    return f"{training.procedure.name}, {training.local_epochs} epochs per round, {steps}"
