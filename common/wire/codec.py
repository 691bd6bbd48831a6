"""What turns one kind of value into bytes and back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from google.protobuf.message import DecodeError, Message

from common.errors import WireError
from common.wire.limits import CONTROL_BYTES

V = TypeVar("V")
M = TypeVar("M", bound=Message)


@dataclass(frozen=True)
class Codec(Generic[V]):
    """One message of the protocol. `name` is the message's name in protos/.

    `encode` raises `WireError` for a value that no message can carry; `decode` takes any bytes and gives a valid
    value or raises `WireError`.
    """

    name: str
    encode: Callable[[V], bytes]
    decode: Callable[[bytes], V]


def codec(kind: type[M], pack: Callable[[V], M], unpack: Callable[[M], V], limit: int = CONTROL_BYTES) -> Codec[V]:
    """The codec of the message `kind`, made from the two directions; `limit` is in bytes."""
    name = kind.DESCRIPTOR.name

    def encode(value: V) -> bytes:
        # protobuf refuses integers out of range and text that is not Unicode, each in its own way.
        try:
            data = pack(value).SerializeToString()
        except (ValueError, TypeError, OverflowError) as error:
            raise WireError(f"{name}: cannot be sent: {error}") from error
        if len(data) > limit:
            raise WireError(f"{name}: {len(data)} bytes are more than {limit}")
        return data

    def decode(data: bytes) -> V:
        if len(data) > limit:
            raise WireError(f"{name}: {len(data)} bytes are more than {limit}")
        message = kind()
        try:
            message.ParseFromString(data)
            return unpack(message)
        except DecodeError as error:
            raise WireError(f"{name}: these bytes are no such message") from error
        except WireError as error:
            raise WireError(f"{name}.{error.message}") from error

    return Codec(name, encode, decode)
