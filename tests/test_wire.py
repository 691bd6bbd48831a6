"""The wire: every value survives the trip, and no bytes whatsoever do more than raise WireError."""

from __future__ import annotations

import math
import re
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.bodies import ScopeVersion, Train, TrainingSettings
from common.errors import WireError
from common.orders import (
    JoinRequest,
    ModelArchitecture,
    Order,
    PollKind,
    PollReply,
    Progress,
    ScopePayload,
    ScopeValues,
    Session,
    TaskResult,
    Update,
    UpdateHeader,
    UpdateState,
    Welcome,
)
from common.ports import CHUNK_BYTES, INLINE_BYTES
from common.statistics import TaskStatistics
from common.tasks import TASK_KINDS, TaskDefinition
from common.wire import messages, methods
from common.wire.calls import FailureCall, FetchCall, HeartbeatCall, PollCall, UploadStart
from common.wire.chunks import CHUNK, UPLOAD_PART
from common.wire.codec import Codec
from common.wire.gen import admin_pb2, federation_pb2
from common.wire.limits import CONTROL_BYTES, MAX_COUNT, MAX_SCOPES
from tests.wire_values import VALUES

ROOT = Path(__file__).parent.parent

every_codec = pytest.mark.parametrize(("codec", "values"), VALUES, ids=[codec.name for codec, _ in VALUES])
quick = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


def survives(codec: Codec[Any], data: bytes) -> None:
    """A decoder's whole promise: a value that can travel on, or WireError."""
    try:
        value = codec.decode(data)
    except WireError as error:
        assert error.message.startswith(codec.name) and "\n" not in error.message
        return
    assert codec.decode(codec.encode(value)) == value


@every_codec
def test_every_value_survives_the_trip(codec: Codec[Any], values: st.SearchStrategy[Any]) -> None:
    @quick
    @given(values)
    def check(value: Any) -> None:
        assert codec.decode(codec.encode(value)) == value

    check()


@every_codec
def test_random_bytes_do_no_harm(codec: Codec[Any], values: st.SearchStrategy[Any]) -> None:
    @quick
    @given(st.binary(max_size=200))
    def check(data: bytes) -> None:
        survives(codec, data)

    check()


@every_codec
def test_mutated_messages_do_no_harm(codec: Codec[Any], values: st.SearchStrategy[Any]) -> None:
    @quick
    @given(values, st.data())
    def check(value: Any, data: st.DataObject) -> None:
        raw = bytearray(codec.encode(value))
        at = data.draw(st.integers(0, len(raw)))
        until = data.draw(st.integers(at, min(at + 8, len(raw))))
        raw[at:until] = data.draw(st.binary(max_size=8))
        survives(codec, bytes(raw))

    check()


@every_codec
def test_a_message_longer_than_any_may_be_is_refused_unread(codec: Codec[Any], values: Any) -> None:
    with pytest.raises(WireError, match="more than"):
        codec.decode(b"\x7a" * (CONTROL_BYTES + 5))


SESSION = Session("run-1", "clinic.a", "t1")
HEADER = UpdateHeader(
    "o1",
    "dense-float32",
    (ScopePayload("shared", 3, "ab" * 32, 400), ScopePayload("task/sst2", 3, "cd" * 32, 40)),
    "ef" * 16,
    (TaskResult("sst2", 7, None, TaskStatistics(7, 1.5, 5, (3, 4, 4, 2, 3, 3), (), (("auc_mean", 0.5, 7),))),),
    1.0,
)
TASK = TaskDefinition("sst2", TASK_KINDS["classification"], ("no", "yes"), False, ("accuracy",))
JOIN = JoinRequest("clinic.a", (TASK,), (("sst2", 7),))
TRAINING = TrainingSettings(1, 8, 0.1, 0.2, 0.0, 1.0, 8)
ORDER = Order("o1", 1, 1, (ScopeVersion("shared", 1),), 60.0, Train(TRAINING, seed=5))


LARGE_VALUES = ScopeValues("shared", bytes(INLINE_BYTES + 1))


def order_reply(**changes: Any) -> PollReply:
    return PollReply(PollKind.ORDER, UpdateState.NONE, "", replace(ORDER, **changes))


def upload(**changes: Any) -> UploadStart:
    return UploadStart(SESSION, replace(HEADER, **changes))


def welcome(**changes: Any) -> Welcome:
    architecture = ModelArchitecture("{}", "cross", 64, "ab" * 32, 0)
    rules, digests = (("*", "shared"),), (("shared", "ab" * 32),)
    return replace(Welcome(SESSION, "Probe", architecture, (TASK,), rules, digests, 30.0, 5.0), **changes)


LARGE_UPLOAD = replace(
    upload(scopes=(replace(HEADER.scopes[0], nbytes=INLINE_BYTES + 8),)), payload=bytes(INLINE_BYTES + 8)
)


def results_with(**changes: Any) -> UploadStart:
    return upload(results=(replace(HEADER.results[0], **changes),))


def task_with(**changes: Any) -> JoinRequest:
    return replace(JOIN, tasks=(replace(TASK, **changes),))


BROKEN: tuple[tuple[str, Codec[Any], Any, str], ...] = (
    ("client id", messages.JOIN_REQUEST, replace(JOIN, client_id="a/b"), "client_id: 'a/b' is not an id"),
    ("client id with dots", messages.JOIN_REQUEST, replace(JOIN, client_id="a..b"), "client_id: 'a..b' is not an id"),
    (
        "run id upwards",
        messages.WELCOME,
        welcome(session=replace(SESSION, run_id="../../../x")),
        "run_id: '../../../x'",
    ),
    ("run id of dots", messages.WELCOME, welcome(session=replace(SESSION, run_id="..")), "run_id: '..'"),
    ("hidden run id", messages.WELCOME, welcome(session=replace(SESSION, run_id=".x")), "run_id: '.x'"),
    ("rule's scope", messages.WELCOME, welcome(rules=(("*", "shared/../x"),)), "scope: 'shared/../x'"),
    ("rule's place", messages.WELCOME, welcome(rules=(("*", "member/{member}"),)), "scope: 'member/{member}'"),
    ("endless poll", messages.WELCOME, welcome(poll_seconds=1e300), "poll_seconds"),
    ("endless order", messages.POLL_REPLY, order_reply(seconds_left=1e300), "seconds_left"),
    ("order id upwards", messages.POLL_REPLY, order_reply(order_id="../x"), "order_id: '../x'"),
    ("small chunks", messages.FETCH_REQUEST, FetchCall(SESSION, ScopeVersion("shared", 1), 0, 100), "chunk_bytes: 100"),
    ("empty client id", messages.JOIN_REQUEST, replace(JOIN, client_id=""), "client_id"),
    ("long client id", messages.JOIN_REQUEST, replace(JOIN, client_id="x" * 65), "client_id"),
    ("no tasks", messages.JOIN_REQUEST, replace(JOIN, tasks=(), examples=()), "number of tasks"),
    ("task twice", messages.JOIN_REQUEST, replace(JOIN, tasks=(TASK, TASK)), "comes twice"),
    ("foreign examples", messages.JOIN_REQUEST, replace(JOIN, examples=(("cola", 1),)), "not among the tasks"),
    ("task name", messages.JOIN_REQUEST, task_with(name="a b"), "name"),
    ("label twice", messages.JOIN_REQUEST, task_with(labels=("a", "a")), "labels"),
    ("label with escape", messages.JOIN_REQUEST, task_with(labels=("a", "\x1b[2J")), "control characters"),
    ("no labels", messages.JOIN_REQUEST, task_with(labels=()), "labels: 0 do not fit"),
    ("foreign metric", messages.JOIN_REQUEST, task_with(metrics=("rmse",)), "metrics: 'rmse' is not one of"),
    ("weight", messages.JOIN_REQUEST, task_with(weight=math.nan), "weight: nan"),
    (
        "learning rate",
        messages.POLL_REPLY,
        order_reply(body=Train(replace(TRAINING, learning_rate=math.inf), 5)),
        "rate",
    ),
    ("batch size", messages.POLL_REPLY, order_reply(body=Train(replace(TRAINING, batch_size=0), 5)), "batch_size"),
    ("negative seconds", messages.POLL_REPLY, order_reply(seconds_left=-1.0), "seconds_left"),
    ("order without id", messages.POLL_REPLY, order_reply(order_id=""), "order_id"),
    ("scope twice", messages.POLL_REPLY, order_reply(scopes=ORDER.scopes * 2), "scopes"),
    ("too many", messages.POLL_REPLY, order_reply(scopes=ORDER.scopes * (MAX_SCOPES + 1)), "number of scopes"),
    ("values of a foreign scope", messages.POLL_REPLY, order_reply(inline=(ScopeValues("x", b""),)), "not the order's"),
    ("values twice", messages.POLL_REPLY, order_reply(inline=(ScopeValues("shared", b""),) * 2), "inline"),
    ("large values", messages.POLL_REPLY, order_reply(inline=(LARGE_VALUES,)), "bytes of inline"),
    ("order kind without order", messages.POLL_REPLY, PollReply(PollKind.ORDER, UpdateState.NONE), "order"),
    ("wait with order", messages.POLL_REPLY, replace(order_reply(), kind=PollKind.WAIT), "order"),
    ("offset beyond the end", UPLOAD_PART, upload(offset=441), "offset: 441 is not from 0 to 440"),
    ("inline update", messages.POLL_REQUEST, PollCall(SESSION, "o", Update(HEADER, b"x")), "1 bytes are not the"),
    ("short payload", UPLOAD_PART, replace(upload(), payload=b"x" * 439), "439 bytes are not the 440"),
    ("payload in mid-upload", UPLOAD_PART, replace(upload(offset=4), payload=b"x" * 440), "payload"),
    ("large payload", UPLOAD_PART, LARGE_UPLOAD, "nbytes: 65544 is not from 0 to 65536"),
    ("train loss", UPLOAD_PART, results_with(train_loss=math.nan), "train_loss"),
    ("loss sum", UPLOAD_PART, results_with(validation=TaskStatistics(1, math.inf)), "loss_sum"),
    ("moments", UPLOAD_PART, results_with(validation=TaskStatistics(1, 0.0, moments=(1.0,))), "moments"),
    ("huge count", UPLOAD_PART, results_with(examples=1 << 60), "examples"),
    ("digest", UPLOAD_PART, upload(digest="XYZ"), "digest"),
    ("scope name", messages.FETCH_REQUEST, FetchCall(SESSION, ScopeVersion("../x/y", 1), 0), "scope"),
    ("fraction", messages.HEARTBEAT_REQUEST, HeartbeatCall(SESSION, Progress("o", "x", 1.5)), "fraction"),
    ("token", messages.LEAVE_REQUEST, replace(SESSION, token=""), "token"),
)


@pytest.mark.parametrize(("codec", "value", "said"), [row[1:] for row in BROKEN], ids=[row[0] for row in BROKEN])
def test_what_breaks_a_rule_is_refused_by_name(codec: Codec[Any], value: Any, said: str) -> None:
    with pytest.raises(WireError, match=re.escape(said)):
        codec.decode(codec.encode(value))


def test_a_missing_part_is_refused() -> None:
    for codec in (messages.POLL_REQUEST, messages.WELCOME, messages.HEARTBEAT_REQUEST, messages.LEAVE_REQUEST):
        with pytest.raises(WireError, match="missing"):
            codec.decode(b"")
    with pytest.raises(WireError, match="header: missing"):
        UPLOAD_PART.decode(b"")


def test_unknown_words_and_unknown_fields() -> None:
    with pytest.raises(WireError, match="kind: 'dance' is not one of order, wait"):
        messages.POLL_REPLY.decode(federation_pb2.PollReply(kind="dance").SerializeToString())
    assert messages.HEARTBEAT_REPLY.decode(b"\x08\x01" + b"\xfa\x07\x01x") is True


def test_what_no_message_can_carry_is_told_to_the_sender() -> None:
    for scope in (ScopeVersion("shared", -1), ScopeVersion("shared", 1 << 64), ScopeVersion("\ud800", 1)):
        with pytest.raises(WireError, match="FetchRequest: cannot be sent"):
            messages.FETCH_REQUEST.encode(FetchCall(SESSION, scope, 0))
    counts = tuple([1] * (CONTROL_BYTES + 1))
    with pytest.raises(WireError, match="more than"):
        UPLOAD_PART.encode(results_with(validation=TaskStatistics(1, 0.0, 0, counts)))


def test_five_thousand_labels_fit_every_message_with_room_to_spare() -> None:
    names = tuple(f"a label with a name of forty characters {number}" for number in range(5000))
    task = TaskDefinition("m", TASK_KINDS["classification"], names, False, ("f1",))
    rng = np.random.default_rng(0)
    found = task.type.measure(task, rng.normal(size=(100, 5000)), rng.integers(5000, size=100).astype(float), 1.0)
    largest = replace(found, examples=MAX_COUNT, right=MAX_COUNT, labels=(MAX_COUNT,) * len(found.labels))
    for statistics, most in ((found, 50_000), (largest, 250_000)):
        value = results_with(validation=statistics, personal=statistics)
        data = UPLOAD_PART.encode(value)
        assert UPLOAD_PART.decode(data) == value and len(data) < most
    join = replace(JOIN, tasks=(replace(task, name="sst2"),))
    assert messages.JOIN_REQUEST.decode(messages.JOIN_REQUEST.encode(join)) == join


def test_lines_for_people_are_folded_and_cut_when_sent() -> None:
    report = FailureCall(SESSION, "o1", "two\nlines \x1b[31m and " + "x" * 2000)
    reason = messages.FAILURE_REPORT.decode(messages.FAILURE_REPORT.encode(report)).reason
    assert reason.startswith("two lines [31m and xxx") and len(reason) == 1000


def test_chunks_cost_one_copy_and_never_exceed_their_size() -> None:
    data = bytes(CHUNK_BYTES)
    for codec in (CHUNK, UPLOAD_PART):
        tracemalloc.start()
        message = codec.encode(data)
        _, encoding = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        assert codec.decode(message) == data
        _, decoding = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert encoding < 1.1 * CHUNK_BYTES and decoding < 2.1 * CHUNK_BYTES
        with pytest.raises(WireError, match="larger than"):
            codec.encode(data + b"x")
    assert CHUNK.encode(data[:300]) == federation_pb2.Chunk(data=data[:300]).SerializeToString()
    assert UPLOAD_PART.encode(data) == federation_pb2.UploadPart(data=data).SerializeToString()


def test_methods_are_those_of_the_written_protocol() -> None:
    written = [
        (
            f"/{service.full_name}/{method.name}",
            f"{'stream' if method.client_streaming else 'unary'}_{'stream' if method.server_streaming else 'unary'}",
            method.input_type.name,
            method.output_type.name,
        )
        for file in (federation_pb2, admin_pb2)
        for service in file.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    ]
    assert written == [(m.path, m.kind, m.request.name, m.reply.name) for m in methods.METHODS]


def test_generated_code_is_up_to_date(tmp_path: Path) -> None:
    protoc = pytest.importorskip("grpc_tools.protoc")
    protos, out = ROOT / "protos", tmp_path / "set"
    names = sorted(path.name for path in protos.glob("*.proto"))
    assert protoc.main(["protoc", f"-I{protos}", f"--descriptor_set_out={out}", *names]) == 0
    for fresh in FileDescriptorSet.FromString(out.read_bytes()).file:
        module = {"federation.proto": federation_pb2, "admin.proto": admin_pb2}[fresh.name]
        generated = FileDescriptorProto.FromString(module.DESCRIPTOR.serialized_pb)
        for message in fresh.message_type:
            for field in message.field:
                field.ClearField("json_name")
        assert generated == fresh, "protos/ changed: run `make protos`"
