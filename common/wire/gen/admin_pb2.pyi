from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class StatusRequest(_message.Message):
    __slots__ = ("after",)
    AFTER_FIELD_NUMBER: _ClassVar[int]
    after: str
    def __init__(self, after: _Optional[str] = ...) -> None: ...

class FederationStatus(_message.Message):
    __slots__ = ("run_name", "run_id", "phase", "round", "num_rounds", "waiting_for", "clients", "client_count", "more")
    RUN_NAME_FIELD_NUMBER: _ClassVar[int]
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    NUM_ROUNDS_FIELD_NUMBER: _ClassVar[int]
    WAITING_FOR_FIELD_NUMBER: _ClassVar[int]
    CLIENTS_FIELD_NUMBER: _ClassVar[int]
    CLIENT_COUNT_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    run_name: str
    run_id: str
    phase: str
    round: int
    num_rounds: int
    waiting_for: str
    clients: _containers.RepeatedCompositeFieldContainer[ClientStatus]
    client_count: int
    more: bool
    def __init__(self, run_name: _Optional[str] = ..., run_id: _Optional[str] = ..., phase: _Optional[str] = ..., round: _Optional[int] = ..., num_rounds: _Optional[int] = ..., waiting_for: _Optional[str] = ..., clients: _Optional[_Iterable[_Union[ClientStatus, _Mapping]]] = ..., client_count: _Optional[int] = ..., more: bool = ...) -> None: ...

class ClientStatus(_message.Message):
    __slots__ = ("client_id", "tasks", "present", "activity")
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    TASKS_FIELD_NUMBER: _ClassVar[int]
    PRESENT_FIELD_NUMBER: _ClassVar[int]
    ACTIVITY_FIELD_NUMBER: _ClassVar[int]
    client_id: str
    tasks: _containers.RepeatedScalarFieldContainer[str]
    present: bool
    activity: str
    def __init__(self, client_id: _Optional[str] = ..., tasks: _Optional[_Iterable[str]] = ..., present: bool = ..., activity: _Optional[str] = ...) -> None: ...
