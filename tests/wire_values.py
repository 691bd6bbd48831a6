"""Strategies that make any value that the wire carries."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from common.bodies import (
    DualProblem,
    Evaluate,
    NoisePromise,
    Probe,
    ProximalTerm,
    RowNoise,
    ScopeVersion,
    Solve,
    Train,
    TrainingSettings,
)
from common.capabilities import Capabilities, Capacity
from common.inputs.header import Header
from common.methods.balances import BALANCES
from common.methods.choice import Bounds, Row, Table, parameters_of
from common.methods.dual_losses import DUAL_LOSSES
from common.methods.local_optimizers import LOCAL_OPTIMIZERS
from common.methods.own_models import MIXES, OWN_MODELS
from common.methods.procedures import PROCEDURES, SDCA, Ditto, ProximalStep
from common.methods.relation import LARGEST_MU
from common.orders import (
    ClientStatus,
    Description,
    DualSums,
    FederationStatus,
    JoinRequest,
    ModelArchitecture,
    Order,
    PollKind,
    PollReply,
    Progress,
    Receipt,
    Reply,
    ScopePayload,
    ScopeValues,
    TaskResult,
    Update,
    UpdateHeader,
    UpdateState,
    UploadStatus,
    Welcome,
)
from common.parameters.scope import Scope
from common.probing import ProbeLosses, TaskLosses
from common.standardising import InputScale, InputSums
from common.statistics import MOMENTS, TaskStatistics
from common.targets import TargetSums, TargetUnits
from common.tasks import TASK_KINDS, TaskDefinition
from common.wire import messages
from common.wire.calls import (
    FailureCall,
    FetchCall,
    HeartbeatCall,
    OrderCall,
    PollCall,
    TokenizerCall,
    UploadStart,
    WithdrawCall,
)
from common.wire.checks import as_line
from common.wire.chunks import CHUNK, UPLOAD_PART
from common.wire.codec import Codec
from common.wire.limits import MAX_COUNT, MAX_SEED
from tests.wire_basics import (
    amounts,
    chunk_sizes,
    client_ids,
    counts,
    digests,
    few,
    first,
    ids,
    labels,
    lines,
    numbers,
    positive,
    row_counts,
    scopes,
    seconds,
    sessions,
    sizes,
    task_names,
)
from tests.wire_sums import stage_answers, stage_orders, sum_orders


@st.composite
def task_definitions(draw: st.DrawFn) -> TaskDefinition:
    kind = draw(st.sampled_from([*TASK_KINDS.values()]))
    names = draw(few(labels, lambda label: label, least=1)) if kind.has_labels else ()
    metrics = draw(st.permutations(kind.metrics))[: draw(st.integers(1, len(kind.metrics)))]
    return TaskDefinition(
        draw(task_names), kind, names, draw(st.booleans()), tuple(metrics), draw(amounts), draw(st.booleans())
    )


task_lists = few(task_definitions(), lambda task: task.name, least=1)


headers = st.one_of(
    st.builds(Header, st.integers(1, 1_000_000)), st.builds(Header.of, few(labels.map(as_line), str, least=1))
)


capacities = st.builds(
    Capacity, st.sampled_from(["all", "head", "top_2"]), st.none() | st.integers(1, 9999), few(ids, str)
)
capabilities = st.builds(Capabilities, few(ids, str), st.just("") | ids, capacities)


input_sums = st.lists(st.tuples(row_counts, numbers, amounts), min_size=1, max_size=4).map(
    lambda columns: InputSums(*zip(*columns, strict=True))
)


@st.composite
def join_requests(draw: st.DrawFn) -> JoinRequest:
    tasks = draw(task_lists)
    rows = [tuple((t.name, draw(row_counts)) for t in tasks) for _ in range(2)]
    validation = tuple((name, count) for name, count in rows[1] if count)
    sums = st.builds(TargetSums, numbers, amounts)
    targets = tuple((t.name, draw(sums)) for t in tasks if t.type is TASK_KINDS["regression"])
    said = tuple((t.name, draw(headers)) for t in tasks[1:])
    inputs = tuple((t.name, draw(input_sums)) for t in tasks[:1])
    return JoinRequest(*(draw(client_ids), tasks, rows[0], draw(capabilities), said), validation, targets, inputs)


welcomes = st.builds(
    Welcome,
    sessions,
    labels,
    st.builds(ModelArchitecture, st.text(max_size=50), ids, positive, digests, sizes),
    task_lists,
    few(st.tuples(labels, scopes | st.sampled_from(["task/{task}", "shared/{block}", "member/a-1/task/{task}"]))),
    few(st.tuples(scopes, digests), first),
    seconds,
    seconds,
)
scope_versions = st.builds(ScopeVersion, scopes, counts)


def rows_of(rows: Table[Any]) -> st.SearchStrategy[Row]:
    """Any row of a table, with any parameters that their bounds allow."""
    return st.one_of(
        st.builds(row, **{key: _within(key, p.kind, p.bounds) for key, p in parameters_of(row).items()})
        for row in rows.values()
    )


WORDS = {"loss": sorted(DUAL_LOSSES), "mix": MIXES, "trains": ("all", "head", "top_2")}


def _within(key: str, kind: type, bounds: Bounds | None) -> st.SearchStrategy[Any]:
    if kind is str:
        return st.sampled_from(WORDS[key])
    if kind is bool or bounds is None:
        return st.booleans()
    low = bounds.least if bounds.above is None else bounds.above
    high = bounds.most if bounds.below is None else bounds.below
    if kind is int:
        return st.integers(int(low or 0), int(high or 0))
    return st.floats(low, high, exclude_min=bounds.above is not None, exclude_max=bounds.below is not None)


fractions = st.floats(0, 1, exclude_min=True, exclude_max=True)
rates = st.floats(0, 1e30, exclude_min=True)
scores_noise = st.none() | st.floats(0.1, 1e6)
row_noise = st.builds(RowNoise, rates, fractions, positive, st.none(), rates, scores_noise) | st.builds(
    RowNoise, rates, fractions, positive, rates, st.none() | rates, scores_noise
)
settings = st.builds(
    TrainingSettings,
    *(counts, positive, amounts, amounts, amounts, amounts, positive),
    procedure=rows_of({name: row for name, row in PROCEDURES.items() if row not in (Ditto, SDCA)}),
    own_model=rows_of(OWN_MODELS),
    keeps_scores=st.booleans(),
    row_noise=st.none() | row_noise,
    balance=rows_of(BALANCES),
    optimizer=rows_of(LOCAL_OPTIMIZERS),
    proximal_step=st.sampled_from(ProximalStep),
    frozen=st.sampled_from(("", "all", "0", "12")),
)


seeds = st.integers(0, MAX_SEED)
units = st.builds(TargetUnits, st.floats(-1e30, 1e30), st.floats(2.0**-100, 2.0**101))
scales = st.lists(st.tuples(st.floats(-1e38, 1e38), st.floats(2.0**-100, 2.0**129)), min_size=1, max_size=4).map(
    lambda columns: InputScale(*zip(*columns, strict=True))
)


promises = st.none() | st.builds(NoisePromise, amounts, amounts, amounts, counts)


@st.composite
def order_values(draw: st.DrawFn) -> Order:
    versions = draw(few(scope_versions, lambda scope: scope.scope))
    inline = tuple(ScopeValues(scope.scope, draw(st.binary(max_size=50))) for scope in versions if draw(st.booleans()))
    tasks = draw(few(task_names, str))
    isolated = tuple(task for task in tasks if draw(st.booleans()))
    terms = tuple(ProximalTerm(scope.scope, draw(st.floats(0, LARGEST_MU)), 1) for scope in versions)
    fixed = tuple(scope.scope for scope in versions if draw(st.booleans()))
    trains = st.builds(
        Train,
        settings,
        seeds,
        ids,
        st.sampled_from([(), terms]),
        st.just(isolated),
        fixed=st.just(fixed),
        noise=promises,
        sums=st.none() | sum_orders([scope.scope for scope in versions], tasks),
    )
    bodies = trains | st.builds(Evaluate, settings, seeds, sums=st.none() | sum_orders((), tasks))
    versioned = ids, counts, counts, st.just(versions), seconds
    named = few(st.tuples(task_names, units), first)
    scaled = few(st.tuples(task_names, scales), first)
    return draw(st.builds(Order, *versioned, bodies, st.just(tasks), named, st.just(inline), scaled))


problems = st.builds(DualProblem, task_names, st.none(), positive, st.floats(0, 1), amounts, counts)
sdca = st.builds(replace, settings, procedure=rows_of({SDCA.name: SDCA}))


@st.composite
def solve_orders(draw: st.DrawFn) -> Order:
    found = draw(few(problems, lambda problem: problem.task))
    heads = tuple(replace(problem, scope=f"member/m/task/{problem.task}") for problem in found)
    versions = tuple(ScopeVersion(name, 1) for p in heads for name in (p.scope, Scope.parse(p.scope).support))
    tasks = st.just(tuple(problem.task for problem in heads))
    body = draw(
        st.builds(Solve, sdca, seeds, st.just(heads), ids) | st.builds(Evaluate, settings, seeds, st.just(heads))
    )
    return draw(st.builds(Order, ids, counts, counts, st.just(versions), seconds, st.just(body), tasks))


@st.composite
def probe_orders(draw: st.DrawFn) -> Order:
    """Orders to compare, and to train from what was compared."""
    blocks = st.builds(ScopeVersion, st.integers(1, 9).map("member/m/layer_{}".format), counts)
    versions = draw(few(blocks, lambda block: block.scope, 1))
    offered = [ScopeVersion(Scope.parse(v.scope).candidate(name), 3) for v in versions for name in ("0", "a+b")]
    one = few(st.sampled_from(offered), lambda found: Scope.parse(found.scope).base)
    probe = st.builds(Probe, few(one), st.sampled_from(("train", "validation")), positive, seeds)
    body = draw(probe | st.builds(Train, settings, seeds, ids, starts=one))
    return draw(st.builds(Order, ids, counts, counts, st.just(versions), seconds, st.just(body)))


orders = order_values() | solve_orders() | probe_orders() | stage_orders
poll_replies = st.one_of(
    st.builds(PollReply, st.just(PollKind.ORDER), st.sampled_from(UpdateState), lines, orders),
    st.builds(PollReply, st.sampled_from(list(PollKind)[1:]), st.sampled_from(UpdateState), lines),
)
statistics = st.builds(
    TaskStatistics,
    counts,
    amounts,
    counts,
    few(counts),
    st.one_of(st.just(()), st.tuples(*[numbers] * MOMENTS)),
    few(st.tuples(ids, numbers, counts), first),
    few(st.tuples(ids, st.lists(numbers, max_size=4).map(tuple)), first),
    st.booleans(),
)
dual_sums = st.builds(DualSums, amounts, numbers, amounts, amounts, counts, st.floats(0, 1))
results = st.builds(
    TaskResult, task_names, row_counts, st.none() | numbers, st.none() | statistics, dual=st.none() | dual_sums
)


@st.composite
def update_headers(draw: st.DrawFn) -> UpdateHeader:
    payloads = draw(few(st.builds(ScopePayload, scopes, counts, digests, sizes), lambda scope: scope.scope))
    parts = draw(few(results, lambda result: result.task))
    header = UpdateHeader(draw(ids), draw(ids), payloads, draw(digests), parts, draw(amounts))
    return replace(header, offset=draw(st.integers(0, header.nbytes)))


task_losses = st.builds(TaskLosses, task_names, counts, *[few(numbers)] * 3)
losses = st.builds(ProbeLosses, few(task_losses, lambda found: found.task))
replies = st.builds(Reply, ids, few(results, lambda result: result.task), amounts, st.none() | losses | stage_answers)


@st.composite
def upload_starts(draw: st.DrawFn) -> UploadStart:
    header = draw(update_headers())
    if header.nbytes > 100:
        return UploadStart(draw(sessions), header)
    return UploadStart(draw(sessions), replace(header, offset=0), draw(st.none() | st.just(b"x" * header.nbytes)))


uploads = upload_starts()


@st.composite
def whole_updates(draw: st.DrawFn) -> Update:
    header = replace(draw(update_headers()), offset=0)
    if header.nbytes > 100:
        header = replace(header, scopes=())
    return Update(header, b"x" * header.nbytes)


members = st.builds(ClientStatus, client_ids, few(task_names, str), st.booleans(), lines)
statuses = st.builds(
    FederationStatus,
    *(labels, ids, labels, counts, counts, lines, few(members, lambda member: member.client_id)),
    client_count=st.integers(4, MAX_COUNT),
    more=st.booleans(),
)
progress = st.builds(Progress, st.just("") | ids, lines, st.floats(0, 1))

VALUES: tuple[tuple[Codec[Any], st.SearchStrategy[Any]], ...] = (
    (messages.DESCRIBE_REQUEST, st.none()),
    (messages.DESCRIPTION, welcomes.map(lambda welcome: Description(welcome.architecture, welcome.tasks))),
    (messages.JOIN_REQUEST, join_requests()),
    (messages.WELCOME, welcomes),
    (messages.POLL_REQUEST, st.builds(PollCall, sessions, st.just("") | ids, st.none() | whole_updates() | replies)),
    (messages.PENDING_ANSWER, update_headers() | replies),
    (messages.POLL_REPLY, poll_replies),
    (messages.FETCH_REQUEST, st.builds(FetchCall, sessions, scope_versions, sizes, chunk_sizes)),
    (messages.TOKENIZER_REQUEST, st.builds(TokenizerCall, sessions, sizes, chunk_sizes)),
    (CHUNK, st.binary()),
    (UPLOAD_PART, uploads | st.binary()),
    (messages.RECEIPT, st.builds(Receipt, ids, digests)),
    (messages.UPLOAD_STATUS_REQUEST, st.builds(OrderCall, sessions, ids)),
    (messages.UPLOAD_STATUS_REPLY, st.builds(UploadStatus, st.sampled_from(UpdateState), sizes)),
    (messages.HEARTBEAT_REQUEST, st.builds(HeartbeatCall, sessions, progress)),
    (messages.HEARTBEAT_REPLY, st.booleans()),
    (messages.FAILURE_REPORT, st.builds(FailureCall, sessions, ids, lines)),
    (messages.LEAVE_REQUEST, sessions),
    (messages.WITHDRAW_REQUEST, st.builds(WithdrawCall, client_ids)),
    (messages.DONE, st.none()),
    (messages.STATUS_REQUEST, st.just("") | client_ids),
    (messages.FEDERATION_STATUS, statuses),
)
