"""What a local procedure gets and gives: values in, values out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace

from torch import Tensor

from client.training.compact import Examples
from client.training.evaluation import Scores
from client.training.loop import Progress, TaskSet, train
from client.training.own_model import OwnModel
from client.training.row_noise import HiddenRows, train_hidden
from client.training.step import PLAIN_STEP, StepOptions, proximal_to
from common.bodies import TrainingSettings
from common.models.multitask import MultiTaskModel

Losses = Mapping[str, float]
"""Mean training loss per task; empty where nothing was trained."""

ClientState = Mapping[str, Tensor]
"""What a client keeps, float32 CPU vectors by name; a procedure has names of its own."""

InPrecision = Callable[[MultiTaskModel, Sequence[TaskSet], TrainingSettings], AbstractContextManager[None]]
"""Inside, the model multiplies in the precision of this client."""

MakeOptions = Callable[[MultiTaskModel], StepOptions]
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
    proximal_terms: tuple[tuple[Mapping[str, Tensor], float], ...] = ()
    """Proximal terms that the order asks for, whatever the procedure: anchors by parameter name, and their strength."""
    start_terms: tuple[tuple[Mapping[str, Tensor], float], ...] = ()
    """Those of them that an isolated model has too: to the run's first values."""
    isolated: frozenset[str] = frozenset()
    """Tasks that nothing of what is handed in may learn from."""
    trained: frozenset[str] = frozenset()
    """The scopes whose change is handed in."""
    controls: Mapping[str, Tensor] = field(default_factory=dict)
    """The mean of all clients' control variates, CPU vectors by scope; the change of the client's is handed in."""
    in_precision: InPrecision = in_float32
    hidden: HiddenRows | None = None
    """How single rows are hidden in what is trained; None: they are not."""

    def train(self, options: MakeOptions = lambda model: PLAIN_STEP, whole: bool = False) -> Losses:
        """Train for `settings.local_epochs`; without examples nothing happens.

        Args:
            options: called when the model's table of word embeddings is the one that is trained, which may be compact.
            whole: whether rows move that no text of this client has, so that all must be there.
        """
        if self.hidden is not None:  # noise moves every row of the table, and there must be no other precision
            sets = self.examples.whole
            return self._train_hidden(self.hidden, options) if any(len(item.train) for item in sets) else {}
        vocabulary = None if whole or self.proximal_terms else self.examples.vocabulary
        sets = self.examples.whole if vocabulary is None else self.examples.compact
        if not sets:
            return {}
        with (
            vocabulary.in_place() if vocabulary is not None else nullcontext(),
            self.in_precision(self.model, sets, self.settings),
        ):
            return train(self.model, sets, self.settings, self.seed, self.progress, self._chosen(options))

    def _train_hidden(self, hidden: HiddenRows, options: MakeOptions) -> Losses:
        chosen, sets = self._chosen(options), self.examples.whole
        return train_hidden(self.model, sets, self.settings, self.seed, self.progress, hidden, chosen)

    def _chosen(self, options: MakeOptions) -> StepOptions:
        """What steps add, with what the order asks for."""
        asked_for = (
            term for anchors, mu in self.proximal_terms for term in proximal_to(self.model, anchors, mu, self.settings)
        )
        chosen = options(self.model)
        return replace(chosen, terms=(*chosen.terms, *asked_for))

    def staying(self) -> Work:
        """The same for a model that never leaves: its rows need not be hidden."""
        return replace(self, hidden=None)

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
    deltas: Mapping[str, Tensor] = field(default_factory=dict)
    """What is handed in beside the model's change, CPU vectors by scope."""


Procedure = Callable[[Work, ClientState], Trained]
"""What a client does with an order to train."""


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
