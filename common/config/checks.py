"""Checks that span several keys; every problem is one `path: what is wrong; remedy` line."""

from __future__ import annotations

from collections.abc import Callable, Collection
from operator import itemgetter
from typing import Literal, TypeVar

from common.config import (
    averaging_checks,
    data_checks,
    dual_checks,
    group_checks,
    keep_section,
    privacy_checks,
    secure_checks,
    size_checks,
)
from common.config.schema import Config
from common.config.training_section import TrainingSection
from common.config.values import is_loopback
from common.encoders.table import ENCODERS
from common.inputs.kind import Checks
from common.methods.choice import Row, Table
from common.methods.local_optimizers import SGDOptimizer
from common.methods.procedures import PROCEDURES
from common.methods.relations import RELATIONS
from common.parameters.plan import ScopeRule
from common.parameters.scope import ScopeKind, target_of

R = TypeVar("R", bound=Row)

Role = Literal["server", "client", "simulate", "any"]


def problems(config: Config, role: Role = "any", broken: Collection[str] = ()) -> list[str]:
    """What is wrong across sections, for a process that acts as `role`.

    Checks that read a section in `broken` are left out: it was refused already and holds defaults now.
    """
    checks = _TASK_CHECKS + config.model.inputs.checks + _CHECKS + _ROLE_CHECKS[role]
    return [line for reads, check in checks if not set(reads) & set(broken) for line in check(config)]


def server_problems(config: Config) -> list[str]:
    """What forbids to act as the coordinator: an open port without protection."""
    server, tls = config.server, config.server.tls
    if is_loopback(server.host) or server.insecure or tls.client_ca or (tls.certificate and tls.any_client):
        return []
    if tls.certificate:
        text = "is open to clients without a certificate, which are whom they say; set server.tls.client_ca"
        return [f"server.host: '{server.host}' {text}, or server.tls.any_client: true"]
    remedy = "set server.tls.certificate, key and client_ca, or server.insecure: true in a trusted network"
    return [f"server.host: '{server.host}' is open to other machines without encryption; {remedy}"]


def client_problems(config: Config) -> list[str]:
    """What forbids to act as a client: a distant coordinator without protection."""
    client = config.client
    if is_loopback(client.server_host) or client.tls.ca or client.insecure:
        return []
    remedy = "set client.tls.ca, or client.insecure: true in a trusted network"
    return [f"client.server: '{client.server}' is another machine, called without encryption; {remedy}"]


def _some_task(config: Config) -> list[str]:
    return [] if config.tasks else ["tasks: none given; name at least one, e.g. tasks: {sst2: {}}"]


def _task_definitions(config: Config) -> list[str]:
    return [line for name, section in config.tasks.items() for line in section.problems(name)]


def _one_model(config: Config) -> list[str]:
    model = config.model
    if model.client_model in (None, model.server_model):
        return []
    remedy = "other models are not supported yet, leave it out; for fewer layers of this one set client.layers"
    return [f"model.client_model: '{model.client_model}' is not '{model.server_model}'; {remedy}"]


def _other_encoders(config: Config) -> list[str]:
    model = config.model
    return [
        f"model.{name}: not read by server_model {model.server_model}; write server_model: {name}, or remove it"
        for name in ENCODERS
        if name != model.server_model and getattr(model, name) is not None
    ]


def _warm_start(config: Config) -> list[str]:
    model = config.model
    if model.warm_start is None or model.weights == "auto":
        return []
    return [f"model.weights: {model.weights} contradicts model.warm_start, which gives the weights; write auto"]


def _tasks_fit_inputs(config: Config) -> list[str]:
    inputs = config.model.inputs
    return [
        f"tasks.{name}.type: a {kind} reads {kind.only_input}, server_model {config.model.server_model} reads "
        f"{inputs.name}; leave the task out"
        for name, section in config.tasks.items()
        if (kind := section.kind_of(name)) is not None and kind.only_input not in (None, inputs.name)
    ]


def _sharing_rules(config: Config) -> list[str]:
    sharing = config.sharing
    if sharing.plan == "rules" and not sharing.rules:
        return ["sharing.rules: plan rules needs them; write e.g. - '*': shared"]
    if sharing.plan != "rules" and sharing.rules:
        return ["sharing.rules: only plan rules reads them; write sharing.plan: rules, or remove them"]
    found = ((i, ScopeRule(rule.match, rule.scope).problem()) for i, rule in enumerate(sharing.rules))
    return [f"sharing.rules.{i}: {problem}" for i, problem in found if problem]


def _private_layers(config: Config) -> list[str]:
    sharing = config.sharing
    if "private_layers" not in sharing.model_fields_set or sharing.private_layers == 1:
        return []
    if any(rule.counts_layers for rule in config.sharing_plan().rules):
        return []
    remedy = "write sharing.plan: fedper or lg, or remove it"
    return [f"sharing.private_layers: not read by plan {sharing.plan}; {remedy}"]


_NOTHING_TO_PULL_TO = "shares nothing to be pulled to; choose another plan, or training.procedure: plain"
_NO_HALVES = "does not split the model into a shared encoder and heads; use hard, private_heads, fedper or rules"


def _procedure_fits(config: Config) -> list[str]:
    training, plan, found = config.training, config.sharing.plan, []
    procedure, name = training.procedure, training.procedure.name
    if procedure.has_anchor and plan == "local":
        found.append(f"training.procedure: plan local {_NOTHING_TO_PULL_TO}")
    if procedure.splits_model and plan in ("full", "lg", "local"):
        found.append(f"training.procedure: {name}, but plan {plan} {_NO_HALVES}")
    if training.balance.compares_losses and procedure.looks_ahead:
        remedy = f"{name} takes gradients where the model does not stand; choose another of the two"
        found.append(f"training.balance: {training.balance.name} compares losses before and after a step, {remedy}")
    return found


def _controls(config: Config) -> list[str]:
    """What control variates do not fit: they are means of plain gradients, over clients of equal weight."""
    training, aggregation, name = config.training, config.aggregation, config.training.procedure.name
    if not training.procedure.has_controls:
        return []
    kinds = {ScopeKind.SHARED, ScopeKind.TASK, ScopeKind.PRIVATE}
    contradictions = {
        "training.optimizer: must be sgd without momentum, so that steps tell the gradients; write "
        "training.optimizer: sgd": training.optimizer != SGDOptimizer(),
        "training.head_learning_rate: steps of one rate tell the gradients; remove it": (
            training.head_learning_rate not in (None, training.learning_rate)
        ),
        "training.max_grad_norm: shortens gradients that variates are made of; write 0": training.max_grad_norm > 0,
        "training.proximal_step: proximal steps hide the gradients; write gradient": (
            training.proximal_step == "proximal"
        ),
        "aggregation.weights: clients count alike in the mean of variates, so must their updates; write uniform": (
            aggregation.weights.counts_examples
        ),
        "aggregation.mean_over: variates are means over all clients; write all": aggregation.among_readers,
        "aggregation.norm_bound: shortens variates with the updates; remove it": aggregation.norm_bound is not None,
        "aggregation.robust: leaves updates out, but variates of all clients must count; remove it": (
            aggregation.robust is not None
        ),
        "federation.update_encoding: bfloat16 rounds what the sum of variates is made of; write dense-float32": (
            "bfloat16" in config.federation.update_encoding
        ),
        "sharing.plan: everything is private, so that nothing is corrected; choose another plan": (
            config.sharing.plan == "local"
        ),
        "sharing: copies of groups and members have no variates; choose another plan": any(
            target.kind not in kinds for rule in config.sharing_plan().rules if (target := target_of(rule.scope))
        ),
    }
    return [f"{line} (training.procedure: {name})" for line, found in contradictions.items() if found]


def _proximal_step(config: Config) -> list[str]:
    """Who reads `training.proximal_step`, and whether a step along the gradient would carry beyond the anchor."""
    training, relation = config.training, config.relation
    strengths = {}
    if training.procedure.has_anchor:
        strengths["training.procedure.mu"] = training.procedure.largest_mu()
    if training.anchor is not None:
        strengths["training.anchor.strength"] = training.anchor.strength
    if relation is not None and relation.has_anchors:
        members = len(config.tasks) if config.sharing.members == "tasks" else config.federation.min_clients
        strengths["relation.strength"] = relation.largest_mu(members)
    if training.proximal_step == "proximal":
        readers = f"{_names(PROCEDURES, lambda row: row.has_anchor)} as training.procedure, an anchor"
        relations = _names(RELATIONS, lambda row: row.has_anchors)
        remedy = f"only {readers} or relation {relations} reads it; write one of them, or remove it"
        return [] if strengths else [f"training.proximal_step: {remedy}"]
    name, rate = max(
        ("learning_rate", training.learning_rate), ("head_learning_rate", training.rate_of_heads()), key=itemgetter(1)
    )
    return [
        f"{key}: {mu:g} times {name} {rate:g} is above 1 and would overshoot; "
        "write training.proximal_step: proximal, or a smaller one"
        for key, mu in strengths.items()
        if mu * rate > 1
    ]


def _names(rows: Table[R], reads: Callable[[type[R]], bool]) -> str:
    return " or ".join(name for name, row in rows.items() if reads(row))


def _frozen(config: Config) -> list[str]:
    training = config.training
    if training.frozen_rounds or training.frozen_layers == TrainingSection().frozen_layers:
        return []
    return ["training.frozen_layers: not read without training.frozen_rounds; set that, or remove it"]


def _scopes_of_known_tasks(config: Config) -> list[str]:
    return [
        f"sharing.rules.{i}.scope: '{rule.scope}' is of no task in this configuration; add it to tasks"
        for i, rule in enumerate(config.sharing.rules)
        if (target := target_of(rule.scope)) is not None and target.task not in ("", "{task}", *config.tasks)
    ]


def _task_choice(config: Config) -> list[str]:
    section = config.federation
    if section.tasks_per_order is not None or section.task_choice == "rotate":
        return []
    return ["federation.task_choice: only tasks_per_order reads it; set federation.tasks_per_order, or remove it"]


def _aggregation(config: Config) -> list[str]:
    return config.aggregation.problems()


def _own_models(config: Config) -> list[str]:
    keys = list(config.own_models())
    if len(keys) < 2:
        return []
    return [f"{keys[0]}: {' and '.join(keys)} each give clients a model of their own beside it; keep one of them"]


def _guard(config: Config) -> list[str]:
    guard, found = config.guard, []
    if not guard.enabled:
        return [
            f"guard.{key}: is not read without the guard; write guard.enabled: true, or remove it"
            for key in ("margin", "rounds")
            if getattr(guard, key) != getattr(type(guard)(), key)
        ]
    if config.sharing.plan == "local":
        found.append("guard: plan local shares nothing that could hurt; choose another plan, or remove the guard")
    if config.relation is not None and not config.relation.stands_losing_members:
        remedy = "choose one of them"
        found.append(
            f"guard: relation {config.relation.name} would go on with copies of tasks that fell back; {remedy}"
        )
    found += [
        f"tasks.{name}.val_samples: 0 leaves the guard nothing to compare by; raise it"
        for name, section in config.tasks.items()
        if section.val_samples == 0
    ]
    return found


def _blend(config: Config) -> list[str]:
    if not config.blend.enabled:
        return [
            f"blend.{key}: is not read without the blend; write blend.enabled: true, or remove it"
            for key in ("mix", "trains")
            if getattr(config.blend, key) != getattr(type(config.blend)(), key)
        ]
    if config.sharing.plan == "local":
        return ["blend: plan local shares nothing to blend with; choose another plan, or remove the blend"]
    return []


def _server_files(config: Config) -> list[str]:
    tls = config.server.tls
    found = _pair("server.tls", tls.certificate, tls.key)
    if tls.client_ca and not tls.certificate:
        found.append("server.tls.client_ca: needs server.tls.certificate and server.tls.key; add them")
    if tls.client_ca and tls.any_client:
        found.append("server.tls.any_client: true contradicts server.tls.client_ca; remove one")
    if tls.certificate and config.server.insecure:
        found.append("server.insecure: true contradicts server.tls.certificate; remove one")
    return found


def _roster(config: Config) -> list[str]:
    return [
        f"server.clients.{name}.tasks: '{task}' is no task of this configuration; add it to tasks, or remove it"
        for name, one in (config.server.clients or {}).items()
        for task in one.tasks or ()
        if task not in config.tasks
    ]


def _client_files(config: Config) -> list[str]:
    tls = config.client.tls
    found = _pair("client.tls", tls.certificate, tls.key)
    if tls.certificate and not tls.ca:
        found.append("client.tls.certificate: needs client.tls.ca; add it")
    if tls.ca and config.client.insecure:
        found.append("client.insecure: true contradicts client.tls.ca; remove one")
    return found


def _pair(path: str, certificate: str | None, key: str | None) -> list[str]:
    if bool(certificate) == bool(key):
        return []
    absent, present = ("key", "certificate") if certificate else ("certificate", "key")
    return [f"{path}.{absent}: missing; {path}.{present} needs it"]


# What a check reads. Those without `tasks` go through the tasks one by one and hold for those that are left.
_TASK_CHECKS: Checks = (
    (("model",), _one_model),
    (("model",), _other_encoders),
    (("model",), _warm_start),
    (("model",), _tasks_fit_inputs),
    (("tasks",), _some_task),
    ((), _task_definitions),
    ((), size_checks.tasks),
)
_DUAL_READS = ("training", "sharing", "guard", "blend", "model", "federation", "aggregation", "relation", "tasks")
_PRIVACY_READS = ("privacy", "data", *_DUAL_READS)
_SECURE_READS = ("secure_aggregation", "simulation", *_PRIVACY_READS)
_CHECKS: Checks = (
    (("sharing",), size_checks.rules),
    (("data", "simulation"), data_checks.source),
    (("data",), data_checks.split),
    (("data",), data_checks.datasets),
    (("model", "data"), data_checks.augment),
    (("sharing",), _sharing_rules),
    (("sharing",), _private_layers),
    (("sharing", "training"), _procedure_fits),
    (("training", "aggregation", "sharing", "federation"), _controls),
    (("training", "relation", "sharing", "federation", "tasks"), _proximal_step),
    (("training",), _frozen),
    (("sharing", "tasks"), _scopes_of_known_tasks),
    (("federation",), _task_choice),
    (("model", "tasks"), keep_section.problems),
    (("training",), keep_section.patience),
    (("sharing", "tasks"), group_checks.groups),
    (("sharing", "relation", "aggregation", "tasks"), group_checks.relation),
    (("aggregation",), _aggregation),
    (("aggregation",), averaging_checks.weights_of_tasks),
    (("aggregation", "sharing", "training"), averaging_checks.mean_over),
    (("aggregation", "sharing", "relation"), averaging_checks.step_scale),
    (("aggregation", "sharing", "training"), averaging_checks.average),
    (("aggregation", "tasks"), averaging_checks.auxiliary_tasks),
    (("guard", "blend", "training"), _own_models),
    (_DUAL_READS, dual_checks.problems),
    (("guard", "sharing", "relation", "tasks"), _guard),
    (("blend", "sharing"), _blend),
    (_PRIVACY_READS, privacy_checks.problems),
    (_SECURE_READS, secure_checks.problems),
    (("server",), _server_files),
    (("server", "tasks"), _roster),
    (("client",), _client_files),
    (("client",), dual_checks.work),
)
_ENOUGH: Checks = ((("secure_aggregation", "federation"), secure_checks.enough),)
_ROLE_CHECKS: dict[Role, Checks] = {
    "any": _ENOUGH,
    "server": (
        (("server",), server_problems),
        (("privacy",), privacy_checks.package_of_server),
        (("secure_aggregation",), secure_checks.package),
        *_ENOUGH,
    ),
    "client": (
        (("client",), client_problems),
        (("data",), data_checks.split_of_source),
        (("privacy",), privacy_checks.package_of_client),
        (("secure_aggregation",), secure_checks.package),
    ),
    "simulate": (
        (("simulation", "tasks", "data", "client"), data_checks.simulation),
        (("privacy",), privacy_checks.package),
        (("privacy", "simulation", "data"), privacy_checks.simulation),
        (("secure_aggregation",), secure_checks.package),
        (("secure_aggregation", "simulation", "data", "tasks", "aggregation"), secure_checks.simulation),
        *_ENOUGH,
        (("data",), data_checks.split_of_source),
    ),
}
