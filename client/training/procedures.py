"""The local procedures: what a client does with an order to train. Each is a few lines around the one batch loop.

A procedure is `(work, state) -> Trained`. Its state is what it keeps from order to order at this client, committed with
the update that it belongs to, and rolled back with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from client.training.compact import Examples
from client.training.evaluation import Scores, score
from client.training.loop import Progress, TaskSet, train
from client.training.own_model import OwnModel
from client.training.pull import PLAIN_STEP, StepRule, pull_to, pull_to_here
from common.bodies import TrainingSettings
from common.methods.procedures import Ditto, FedProx, FedRep, LocalProcedure, PerFedAvg, PlainProcedure
from common.models.multitask import MultiTaskModel
from common.seeds import derive_seed

Losses = Mapping[str, float]
"""Mean training loss per task; empty where nothing was trained."""

ClientState = Mapping[str, Tensor]
"""What a client keeps, float32 CPU vectors by name; a procedure has names of its own."""

InPrecision = Callable[[MultiTaskModel, Sequence[TaskSet], TrainingSettings], AbstractContextManager[None]]
"""Inside, the model multiplies in the precision of this client."""


MakeRule = Callable[[MultiTaskModel], StepRule]
"""Makes what steps add to plain ones from the model as it is trained."""


def in_float32(model: MultiTaskModel, sets: Sequence[TaskSet], settings: TrainingSettings) -> nullcontext[None]:
    """See `InPrecision`."""
    return nullcontext()


@dataclass(frozen=True)
class Work:
    """A model as it was received, and what to train it on."""

    model: MultiTaskModel
    examples: Examples
    settings: TrainingSettings
    seed: int
    progress: Progress
    travelling: frozenset[str]
    """The parameters whose change leaves the client."""
    body: frozenset[str]
    """Those that everybody shares: the encoder, or what of it is not private."""
    own: OwnModel
    ties: tuple[tuple[Mapping[str, Tensor], float], ...] = ()
    """Proximal terms that the order asks for, whatever the procedure: anchors by parameter name, and their strength."""
    isolated: frozenset[str] = frozenset()
    """Tasks that nothing of what is handed in may learn from."""
    in_precision: InPrecision = in_float32

    def train(self, rule: MakeRule = lambda model: PLAIN_STEP, whole: bool = False) -> Losses:
        """Train for `settings.local_epochs`.

        Args:
            rule: called when the model's table of word embeddings is the one that is trained, which may be compact.
            whole: whether rows move that no text of this client has, so that all must be there.
        """
        vocabulary = None if whole or self.ties else self.examples.vocabulary
        sets = self.examples.whole if vocabulary is None else self.examples.compact
        step, rate = self.settings.proximal_step, self.settings.learning_rate
        with (
            vocabulary.in_place() if vocabulary is not None else nullcontext(),
            self.in_precision(self.model, sets, self.settings),
        ):
            ties = (pull for anchors, mu in self.ties for pull in pull_to(self.model, anchors, mu, step, rate))
            chosen = rule(self.model)
            chosen = replace(chosen, pulls=(*chosen.pulls, *ties))
            return train(self.model, sets, self.settings, self.seed, self.progress, chosen)

    def part(self, done: int, total: int) -> Work:
        """The same as one of `total` parts of the work, `done` of which are over."""
        return replace(self, progress=share_of(self.progress, done, 1, total))


@dataclass(frozen=True)
class Trained:
    """What a procedure came to; the model holds the values to hand in."""

    losses: Losses
    state: ClientState = field(default_factory=dict)
    """What is new of the state; the rest stays as it was."""
    scores: Scores = field(default_factory=dict)
    """Of the client's own model, as it arrived at the order, by task."""


Procedure = Callable[[Work, ClientState], Trained]
"""What a client does with an order to train."""


def plain(work: Work, state: ClientState, chosen: LocalProcedure) -> Trained:
    """FedAvg (McMahan et al. 2017): epochs over the own rows."""
    return Trained(work.train())


def proximal(work: Work, state: ClientState, chosen: FedProx) -> Trained:
    """FedProx (Li et al., MLSys 2020): the loss plus (mu/2) ||w - w_received||^2 over what travels."""
    step, rate = work.settings.proximal_step, work.settings.learning_rate
    return Trained(work.train(lambda model: StepRule(pull_to_here(model, work.travelling, chosen.mu, step, rate))))


def alternating(work: Work, state: ClientState, chosen: FedRep) -> Trained:
    """FedRep (Collins et al., ICML 2021): first the heads with the body frozen, then the body with the heads frozen."""
    rest = frozenset(name for name, _ in work.model.named_parameters()) - work.body
    heads, body = chosen.head_epochs, work.settings.local_epochs
    total, trained, losses = heads + body, 0, dict[str, float]()
    phases = ((work.body, 0, heads, derive_seed(work.seed, "head")), (rest, heads, body, work.seed))
    for names, done, epochs, seed in phases:
        settings = replace(work.settings, local_epochs=epochs)
        phase = replace(work, settings=settings, seed=seed, progress=share_of(work.progress, done, epochs, total))
        with frozen(work.model, names):
            if not any(parameter.requires_grad for parameter in work.model.parameters()):
                continue  # the body is frozen in this round, or at this client
            trained += epochs
            for task, loss in phase.train().items():
                losses[task] = losses.get(task, 0.0) + loss * epochs
    return Trained({task: loss / trained for task, loss in losses.items()})


def looking_ahead(work: Work, state: ClientState, chosen: PerFedAvg) -> Trained:
    """Per-FedAvg, first order (Fallah et al., NeurIPS 2020): gradients taken after one step on the batch before."""
    return Trained(work.train(lambda model: StepRule(look_ahead=chosen.inner_learning_rate)))


def ditto(work: Work, state: ClientState, chosen: Ditto) -> Trained:
    """Ditto (Li et al., ICML 2021): plain training, and an own model beside it that leaves no trace in the update.

    Its loss is that of its tasks plus (mu/2) ||v - w_received||^2, from where it stood after the order before.
    """
    step, rate = work.settings.proximal_step, work.settings.learning_rate
    anchors = {name: value for name, value in work.own.received_parameters().items() if name in work.travelling}

    def rule(model: MultiTaskModel) -> StepRule:
        return StepRule(pull_to(model, anchors, chosen.mu, step, rate))

    losses = work.part(0, 2).train()
    return _beside(work.part(1, 2), state, losses, lambda own: own.train(rule, whole=True))


def isolated(procedure: Procedure) -> Procedure:
    """A procedure with an own model beside it that is trained as if there were no others: what the guard compares with.

    Tasks that are isolated train the own model alone.
    """

    def both(work: Work, state: ClientState) -> Trained:
        examples = work.examples.without(work.isolated)
        shared = replace(work.part(0, 2), examples=examples)
        losses = procedure(shared, state).losses if examples.whole else {}
        return _beside(replace(work.part(1, 2), ties=()), state, losses, Work.train)

    return both


def _beside(work: Work, state: ClientState, losses: Losses, train_own: Callable[[Work], Losses]) -> Trained:
    """Score the own model as it arrives, as the received one is, so that both scores belong to one round; train it."""
    with work.own.in_place(state):
        scores = score_begun(work.own, work.model, work.examples, work.settings.eval_batch_size, state)
        train_own(work)
        return Trained(losses, work.own.state(), scores)


PROCEDURE_FUNCTIONS: Mapping[type[LocalProcedure], Callable[[Work, ClientState, Any], Trained]] = {
    PlainProcedure: plain,
    FedProx: proximal,
    FedRep: alternating,
    Ditto: ditto,
    PerFedAvg: looking_ahead,
}
"""By the row that an order carries, which each gets as its last argument."""


def procedure_of(chosen: LocalProcedure) -> Procedure:
    """The procedure that an order names."""
    function = PROCEDURE_FUNCTIONS[type(chosen)]
    return lambda work, state: function(work, state, chosen)


def fine_tuned(work: Work, state: ClientState) -> Trained:
    """An own model by plain epochs from the last published one, scored afterwards."""
    settings = replace(work.settings, local_epochs=work.settings.finetune_epochs)
    with work.own.in_place({}):
        losses = replace(work, settings=settings).train(whole=True)
        scores = score(work.model, work.examples.whole, settings.eval_batch_size)
        return Trained(losses, work.own.state(), scores)


def score_own(own: OwnModel, model: MultiTaskModel, examples: Examples, batch_size: int, state: ClientState) -> Scores:
    """Scores of the own model by task; before its first training there is nothing to score."""
    with own.in_place(state):
        return score_begun(own, model, examples, batch_size, state)


def score_begun(
    own: OwnModel, model: MultiTaskModel, examples: Examples, batch_size: int, state: ClientState
) -> Scores:
    """The same for an own model that is in place."""
    return score(model, [item for item in examples.whole if own.begun(state, item.task.name)], batch_size)


def share_of(progress: Progress, done: int, part: int, total: int) -> Progress:
    """The progress of a part of the work, `done` units of `total` being over."""
    return lambda fraction: progress((done + fraction * part) / total)


@contextmanager
def frozen(model: MultiTaskModel, names: frozenset[str]) -> Iterator[None]:
    """Inside, the named parameters get no gradient and no step moves them."""
    found = [value for name, value in model.named_parameters() if name in names and value.requires_grad]
    for parameter in found:
        parameter.requires_grad_(False)
        parameter.grad = None
    try:
        yield
    finally:
        for parameter in found:
            parameter.requires_grad_(True)
