"""What becomes of a client's own model beside the one that it hands in, in orders to train and to score.

It is state of the client's procedure and leaves no trace in what is handed in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

from client.training.blend import chosen_blend
from client.training.evaluation import evaluate, score
from client.training.loop import TaskSet
from client.training.procedures import procedure_of
from client.training.step import StepOptions, proximal_to
from client.training.work import ClientState, Losses, Procedure, Trained, Work, frozen
from common.bodies import TrainingSettings
from common.capabilities import Capacity
from common.methods.own_models import (
    BlendedModel,
    FineTunedModel,
    IsolatedModel,
    NoOwnModel,
    OwnModelRow,
    PulledModel,
)
from common.models.multitask import MultiTaskModel
from common.parameters.capacity import blocks_of, trained_blocks
from common.parameters.plan import block_of


@dataclass(frozen=True)
class OwnModelFunctions:
    """What a row does; each function gets the row as its last argument."""

    train: Callable[[Procedure, Work, ClientState, Any], Trained]
    """Carries an order to train out, with the procedure for what is handed in."""
    score: Callable[[Work, ClientState, Any], Trained]
    """Carries an order to score out, as far as it is about the own model."""


def handed_in_alone(procedure: Procedure, work: Work, state: ClientState, chosen: OwnModelRow) -> Trained:
    """There is no own model in orders to train."""
    return procedure(work, state)


def isolated(procedure: Procedure, work: Work, state: ClientState, chosen: IsolatedModel) -> Trained:
    """An own model that is trained as if there were no others. Tasks that are isolated train it alone."""
    trained = procedure(replace(work.part(0, 2), examples=work.examples.without(work.isolated)), state)
    return _beside(replace(work.part(1, 2), proximal_terms=work.start_terms), state, trained, Work.train, _score_begun)


def blended(procedure: Procedure, work: Work, state: ClientState, chosen: BlendedModel) -> Trained:
    """An own model that is trained as if there were no others, scored in a blend with the received one."""

    def train(own: Work) -> Losses:
        with frozen(own.model, _untrained(own, chosen.trains)):
            return own.train()

    trained = procedure(work.part(0, 2), state)
    alone = replace(work.part(1, 2), proximal_terms=work.start_terms)
    return _beside(alone, state, trained, train, lambda own, kept: _blend_begun(own, kept, chosen))


def _untrained(work: Work, trains: str) -> frozenset[str]:
    """The parameters that stay as they were received first."""
    blocks = trained_blocks(Capacity(trains), blocks_of(work.own.schemas))
    return frozenset(name for name, _ in work.model.named_parameters() if block_of(name) not in blocks)


def pulled(procedure: Procedure, work: Work, state: ClientState, chosen: PulledModel) -> Trained:
    """Ditto (Li et al., ICML 2021): the loss of its tasks plus (mu/2) ||v - w_received||^2.

    It goes on from where it stood after the order before.
    """
    anchors = {name: value for name, value in work.own.received_parameters().items() if name in work.travelling}

    def options(model: MultiTaskModel) -> StepOptions:
        return StepOptions(proximal_to(model, anchors, chosen.mu, work.settings))

    trained = procedure(work.part(0, 2), state)
    return _beside(work.part(1, 2), state, trained, lambda own: own.train(options, whole=True), _score_begun)


def _beside(
    work: Work,
    state: ClientState,
    trained: Trained,
    train_own: Callable[[Work], Losses],
    score_own: Callable[[Work, ClientState], Trained],
) -> Trained:
    """Score the own model as it arrives, as the received one is, so that both scores belong to one round; train it."""
    work = work.staying()
    with work.own.in_place(state):
        begun = score_own(work, state)
        train_own(work)
        return replace(trained, state={**trained.state, **begun.state, **work.own.state()}, scores=begun.scores)


def nothing(work: Work, state: ClientState, chosen: OwnModelRow) -> Trained:
    """There is no own model to score."""
    return Trained({})


def score_own(work: Work, state: ClientState, chosen: OwnModelRow) -> Trained:
    """Scores of the own model that is kept; before its first training there is nothing to score."""
    with work.own.in_place(state):
        return _score_begun(work, state)


def score_blended(work: Work, state: ClientState, chosen: BlendedModel) -> Trained:
    """Scores of the blends with the last model, whose weights are kept for answers."""
    with work.own.in_place(state):
        return _blend_begun(work, state, chosen)


def fine_tuned(work: Work, state: ClientState, chosen: FineTunedModel) -> Trained:
    """An own model by plain epochs from the last published one, scored afterwards."""
    settings = replace(work.settings, local_epochs=chosen.epochs)
    with work.own.in_place({}):
        losses = replace(work.staying(), settings=settings).train(whole=True)
        scores = score(work.model, work.examples.whole, settings.eval_batch_size)
        return Trained(losses, work.own.state(), scores)


def _score_begun(work: Work, state: ClientState) -> Trained:
    """Scores by task of an own model that is in place."""
    return Trained({}, scores=score(work.model, _begun(work, state), work.settings.eval_batch_size))


def _blend_begun(work: Work, state: ClientState, chosen: BlendedModel) -> Trained:
    """Choose the weights of blends with an own model that is in place; their scores."""
    items, size = _begun(work, state), work.settings.eval_batch_size
    found = Trained({})
    if not items:
        return found
    with work.own.in_place({}):
        received = deepcopy(work.model)
    for item in items:
        name = item.task.name
        blend = chosen_blend(chosen.mix, received, work.model, item, size)
        found = replace(found, state={**found.state, **blend.state(name)})
        if len(item.validation):
            model = blend.model(received, work.model, item.task)
            scores = evaluate(model, item.task, item.validation, size, item.units)
            found = replace(found, scores={**found.scores, name: scores})
    return found


def _begun(work: Work, state: ClientState) -> list[TaskSet]:
    """The rows of tasks that an own model has begun to learn."""
    return [item for item in work.examples.whole if work.own.begun(state, item.task.name)]


OWN_MODEL_FUNCTIONS: Mapping[type[OwnModelRow], OwnModelFunctions] = {
    NoOwnModel: OwnModelFunctions(handed_in_alone, nothing),
    IsolatedModel: OwnModelFunctions(isolated, score_own),
    BlendedModel: OwnModelFunctions(blended, score_blended),
    PulledModel: OwnModelFunctions(pulled, score_own),
    FineTunedModel: OwnModelFunctions(handed_in_alone, fine_tuned),
}
"""By the row that an order carries."""


def training_of(settings: TrainingSettings, procedure: Procedure | None = None) -> Procedure:
    """What an order with these settings asks for; `procedure` takes the place of the one that it names."""
    handed_in, own = procedure or procedure_of(settings.procedure), settings.own_model
    return lambda work, state: OWN_MODEL_FUNCTIONS[type(own)].train(handed_in, work, state, own)


def scoring_of(settings: TrainingSettings) -> Procedure:
    """What an order to score with these settings does with the own model."""
    own = settings.own_model
    return lambda work, state: OWN_MODEL_FUNCTIONS[type(own)].score(work, state, own)
