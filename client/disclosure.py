"""What leaves a client, said before anything does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from client.app import local_definitions
from common.capabilities import Capacity
from common.config import Config
from common.errors import ConfigError
from common.models.layout import scope_schemas
from common.orders import ModelArchitecture
from common.parameters.capacity import absent_scopes, blocks_of, capacity_problem, untrained_scopes
from common.parameters.schema import ParameterSchema
from common.parameters.scope import Scope, held_scopes, is_private
from common.privacy.promise import promised
from common.secure.ring import fraction_bits
from common.standardising import LEAST_ROWS
from common.tasks import TaskDefinition

SUMS = "counts of rows in bins of scores or confidences, and sums of errors"


def what_leaves(config: Config, tasks: Sequence[str]) -> list[str]:
    """One line for everything that a client with these tasks sends, and for what it never sends.

    Raises:
        ConfigError: a task is unknown, or `client.trains` does not fit the sharing plan.
        ModelError: the model's architecture cannot be found.
    """
    definitions = local_definitions(config, tasks)
    schemas = _schemas(config)
    membership = config.membership()
    if problem := membership.problem(schemas, tasks):
        raise ConfigError(f"--tasks: {problem}")
    held, inputs = held_scopes(schemas, tasks), config.model.inputs
    capacity, blocks = Capacity(config.client.trains, config.client.layers), blocks_of(schemas)
    if problem := capacity_problem(capacity, blocks):
        raise ConfigError(problem)
    untrained = untrained_scopes(capacity, blocks) | absent_scopes(capacity, blocks)
    lines = [f"What leaves a client with {', '.join(tasks)}:"]
    sent = [scope for scope in held if not is_private(scope) and scope not in untrained]
    lines += _changes(config, {membership.scope(scope, "<client id>", tasks): schemas[scope] for scope in sent})
    lines += _sums(config, definitions)
    lines += [
        *_results(config, definitions),
        *_compared(config),
        f"  once: client id; per task its name, type, metrics, label names in order, {_rows_said(config)}; "
        "kind of data source",
        *(f"    {line}" for line in inputs.joins_with),
        "  while working: phase and progress; after a failure: the kind of error and our own message",
        "What never leaves:",
        f"  {inputs.stays}, labels, predictions of single rows, file names and paths",
    ]
    for scope in held:
        if is_private(scope):
            lines.append(
                f"  scope {scope}: {schemas[scope].size:,} parameters, starting with {schemas[scope].entries[0].name}"
            )
    lines += [
        f"Changes of parameters tell something about the rows that made them{inputs.update_shows}.",
        *_noise(config),
    ]
    return lines


def _noise(config: Config) -> list[str]:
    """What hides a client or its rows, and from whom."""
    if config.secure_aggregation.enabled:
        return _summed(config) + _noised(config)
    return _noised(config) or ["Nothing is clipped, noised or masked."]


def _noised(config: Config) -> list[str]:
    """What hides a client or its rows in noise; nothing where there is none."""
    if config.privacy.of_rows:
        return _rows_hidden(config)
    if not config.privacy.of_coordinator:
        return []
    seen, kept = "The coordinator sees them as they are.", "Losses, scores, row counts and seconds"
    if config.secure_aggregation.enabled:
        clip, kept = config.privacy.clip, "Sums of losses, scores and row counts"
        seen = f"This client shortens its update to {clip:g} in all. The coordinator sees sums of such as they are."
    return [
        f"{seen} What others get of them is hidden in noise: {promised(config)}.",
        f"{kept} are not covered by that: the coordinator keeps them to itself.",
    ]


def _summed(config: Config) -> list[str]:
    """What sums hide, and how exact they are."""
    section = config.secure_aggregation
    lines = [
        f"An update is shortened to changes of at most {config.largest_change():g} and counts {config.heaviest():,} at "
        "most. In 32 bits a mean is off by at most",
        *(f"  {exactness(config, members)}" for members in sorted({section.min_clients, 10, 100})),
    ]
    if not section.masks:
        return [*lines, "Nothing is masked (secure_aggregation.masks: false): the coordinator sees every update."]
    who = "that lies, too, if few clients help it" if section.pinned else "that follows the protocol"
    return [
        *lines,
        f"Masks hide whose a change is, from a coordinator {who}.",
        *(["What sums say they do not hide; privacy.noise: rows does."] if not config.privacy.of_rows else []),
    ]


def exactness(config: Config, members: int) -> str:
    """How far rounding may move a mean over so many clients."""
    bits = fraction_bits(members, config.heaviest(), config.largest_change())
    off = 0.5**bits if config.privacy.of_coordinator else 0.5 ** (bits + 1)  # who clips rounds towards zero
    return f"among {members} clients: {off:.1e} / a client's mean weight ({bits} bits behind the point)"


def _where(config: Config) -> str:
    """How numbers of each round travel, before what they are."""
    section = config.secure_aggregation
    if not section.enabled:
        return ""
    masked = "masked" if section.masks else "not masked, which hides nothing"
    return f"in sums over at least {section.min_clients} clients ({masked}), "


def _rows_said(config: Config) -> str:
    """What a client says of its number of rows when it joins."""
    return "whether it has training rows" if config.secure_aggregation.enabled else "training rows"


def _rows_hidden(config: Config) -> list[str]:
    """What hides single rows from everybody."""
    section = config.privacy
    budget = "what is spent is in rows.ledger" if section.epsilon is None else f"epsilon at most {section.epsilon:g}"
    lines = [
        f"Single rows are hidden in them, from the coordinator too: their gradients are at most {section.clip:g} long, "
        "and this client adds noise",
        f"  to the sum of every step. For each row of a task, over all orders and runs: {budget}, delta "
        f"{section.delta:g}.",
        "  Not covered: numbers of rows, seconds, and a person with several rows (multiply epsilon by their number).",
    ]
    if section.noises_scores:
        lines += [
            f"  Scores: noise of {section.scores_noise:g} rows on each count. For each validation row, over all orders",
            "  and runs, the same epsilon once more (scores.ledger); when that is spent no scores leave.",
        ]
    elif not section.keeps_scores:
        lines.append("  Losses and scores on validation rows are not covered either (privacy.scores: exact).")
    return lines


def published_sizes(config: Config) -> dict[str, int]:
    """How many parameters each scope has that clients with this configuration train and hand in.

    Raises:
        ModelError: the model's architecture cannot be found.
    """
    schemas = _schemas(config)
    untrained = untrained_scopes(Capacity(config.client.trains, config.client.layers), blocks_of(schemas))
    return {scope: s.size for scope, s in schemas.items() if not is_private(scope) and scope not in untrained}


def _schemas(config: Config) -> dict[str, ParameterSchema]:
    """The layout of every scope of the model."""
    section = config.model
    source = section.inputs.find_encoder(section, "random")
    architecture = ModelArchitecture(source.config_json, section.pair_mode, section.max_length, "", 0)
    return dict(scope_schemas(architecture, config.definitions(), config.sharing_plan()))


def _sums(config: Config, definitions: Sequence[TaskDefinition]) -> list[str]:
    """What a client says once of the training rows that it has."""
    scored = [task.name for task in definitions if task.type.has_units]
    lines: list[str] = []
    if scored and not config.privacy.of_rows and not config.secure_aggregation.enabled:
        lines += [
            f"  once, of {', '.join(scored)}: mean and sum of squared deviations of the training scores",
            "    (other clients of the task hear those of all together, rounded to a power of two and its quarters)",
        ]
    balanced = [task.name for task in definitions if task.class_weights == "balanced"]
    if balanced:
        lines += [
            f"  once, of {', '.join(balanced)}: how many training rows have each label, or pixels or words of them",
            "    (other clients of the task hear weights of labels from those of all together, rounded to 1/16;",
            "    a label of fewer than 5 rows counts as if it had 5)",
        ]
    if config.data.statistics == "federation":
        lines += [
            "  once, of every task, by column or channel: training rows with a value, mean and squared deviations",
            "    (other clients of the task hear those of all together, rounded to a power of two and its quarters;",
            f"    nothing is said of a column with fewer than {LEAST_ROWS} rows, or of categories)",
        ]
    return lines


def _results(config: Config, definitions: Sequence[TaskDefinition]) -> list[str]:
    """What a client says of its work."""
    start = f"  each round, {_where(config)}per task: training rows, "
    seconds = "" if config.secure_aggregation.enabled else "seconds"
    if config.privacy.keeps_scores:
        return [f"{start}{seconds or 'nothing else'} (privacy.scores: none keeps losses and scores here)"]
    if config.privacy.noises_scores:
        return [
            f"{start}{seconds}, and of classifications counts of validation rows per label, with noise",
            "    (privacy.scores: noisy; losses, other sums and scores of a client's own model stay)",
        ]
    parts = ["" if config.privacy.of_rows else "mean training loss", seconds]
    said = ", ".join([*filter(None, parts), "and sums over the validation rows"])
    return [
        f"{start}{said}",
        "    (counts per label, or means and spreads of predictions and scores; Spearman and AUC as one number each)",
        *_further_sums(definitions),
        "    the same sums of the client's own model, where training.procedure, training.finetune_epochs, guard or",
        "    blend makes one (of a blend those of both models together, never its weight)",
    ]


def _further_sums(definitions: Sequence[TaskDefinition]) -> list[str]:
    lines = []
    for task in definitions:
        named = [metric for row in task.metric_sums for metric in row.metrics if metric in task.metrics]
        lines += [f"    of {task.name}, for {', '.join(named)}: {SUMS}"] if named else []
    return lines


def _compared(config: Config) -> list[str]:
    """What a client says of candidates, where a relation has such."""
    rows = config.relation.probes if config.relation is not None else None
    if rows is None:
        return []
    return [
        f"  each round with candidates to compare, per task and candidate, over the {rows} rows: their number, the sum",
        "    of their losses, and sums of how much these are below the first candidate's and of the squares of that",
    ]


def _changes(config: Config, schemas: Mapping[str, ParameterSchema]) -> list[str]:
    """What is sent of scopes, which come by the names that the client knows them by."""
    start = f"  each round, {_where(config)}scope"
    lines = [
        f"{start} {name}: the change of {schema.size:,} parameters ({schema.nbytes / 1e3:,.1f} kB)"
        for name, schema in schemas.items()
    ]
    if config.training.procedure.has_controls:
        lines.append("    and with it the change of the client's mean gradient there, as many numbers again")
    if any(Scope.parse(name).is_member for name in schemas):
        alone = config.membership().members == "clients"
        whose = "this client" if alone else "the clients with exactly these tasks, perhaps one,"
        text_of = f"a copy of {whose} alone: the coordinator sees it, not only a mean of many"
        if config.secure_aggregation.enabled:
            text_of = "a copy of the clients with exactly these tasks"
        lines.append(f"    a member's scope is {text_of}")
    return lines
