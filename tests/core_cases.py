"""Small federations for tests of the core: no tensors, a hand-held clock."""

from dataclasses import replace
from typing import Any, assert_never

from common.bodies import DENSE_FLOAT32, Evaluate, Train, TrainingSettings
from common.orders import JoinRequest, Order, Reply, ScopePayload, TaskResult, UpdateHeader
from common.statistics import TaskStatistics
from common.tasks import KNOWN_TASKS
from server.core.answers import answer_poll
from server.core.effects import Combine, Effect
from server.core.events import Answered, Combined, Event, Joined, Outcome, Started
from server.core.state import FederationState, RunSettings
from server.core.step import step

TASKS = tuple(KNOWN_TASKS[name] for name in ("sst2", "qqp"))
SCHEMAS = {"shared": ("s" * 64, 400), "task/sst2": ("a" * 64, 40), "task/qqp": ("b" * 64, 40)}
SETTINGS = TrainingSettings(1, 8, 1e-3, 1e-3, 0.0, 1.0, 32)
RULES = RunSettings("run", 7, TASKS, SCHEMAS, num_rounds=2, training=SETTINGS)
SCORES = {
    "sst2": TaskStatistics(10, 5.0, 7, (4, 5, 6, 3, 5, 4)),
    "qqp": TaskStatistics(10, 5.0, 5, (5, 5, 10, 0, 5, 0)),
    "mrpc": TaskStatistics(10, 5.0, 7, (4, 5, 6, 3, 5, 4)),
}


def rules(**changes: object) -> RunSettings:
    return replace(RULES, **changes)


class Table:
    """A coordinator's core on a table: apply events, collect effects."""

    def __init__(self, rules: RunSettings = RULES) -> None:
        self.settings = rules
        self.state = FederationState(dict.fromkeys(rules.schemas, 0))
        self.effects: list[Effect] = []
        self.now = 0.0
        self.apply(Started(0.0))

    def apply(self, event: Event) -> list[Effect]:
        """What `event` leads to; versions that it asks for are combined."""
        self.state, effects = step(self.settings, self.state, event)
        for effect in effects:  # grows, as in the writer
            if isinstance(effect, Combine):
                self.state, more = step(self.settings, self.state, self.outcome(event.now, effect))
                effects += more
        self.effects += effects
        return effects

    def outcome(self, now: float, asked: Combine) -> Outcome:
        """What a version comes to."""
        return Combined(now, asked)

    def join(self, client: str, *tasks: str, examples: int = 100, validation: int = 100) -> list[Effect]:
        definitions = tuple(task for task in self.settings.tasks if task.name in tasks)
        rows, scored = (tuple((task, count) for task in tasks) for count in (examples, validation))
        request = JoinRequest(client, definitions, rows, validation=scored)
        return self.apply(Joined(self.now, request, f"token-{client}"))

    def order(self, client: str) -> Order | None:
        return answer_poll(self.settings, self.state, self.state.clients[client], "", self.now).order

    def header(self, client: str, examples: int = 100, digest: str = "d" * 32) -> Any:
        """What answers the client's order: an update's header, or a reply."""
        order = self.order(client)
        assert order is not None
        match order.body:
            case Train():
                scopes = tuple(ScopePayload(s.scope, s.version, *self.settings.schemas[s.scope]) for s in order.scopes)
                results = tuple(TaskResult(task, examples, 0.5, SCORES[task]) for task in order.tasks)
                return UpdateHeader(order.order_id, DENSE_FLOAT32, scopes, digest, results, 1.0)
            case Evaluate():
                return Reply(order.order_id, tuple(TaskResult(t, 0, None, SCORES[t]) for t in order.tasks), 1.0)
            case _:
                assert_never(order.body)

    def answer(self, client: str, examples: int = 100) -> list[Effect]:
        return self.apply(Answered(self.now, client, self.header(client, examples)))

    def of(self, kind: type) -> list[Effect]:
        return [effect for effect in self.effects if isinstance(effect, kind)]
