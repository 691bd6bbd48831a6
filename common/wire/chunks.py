"""The bulk path.

Messages whose only content is one `bytes` field are put together and taken apart by hand: protobuf copies such a
payload twice each way, this once where it is sent and not at all where it arrives.
"""

from __future__ import annotations

from common.errors import WireError
from common.ports import CHUNK_BYTES
from common.wire import checks
from common.wire.calls import UploadStart
from common.wire.codec import Codec, codec
from common.wire.gen import federation_pb2 as pb
from common.wire.parts import pack_session, pack_update, unpack_session, unpack_update, whole_payload

_FRAME_BYTES = CHUNK_BYTES + 4
_CHUNK_TAG = pb.Chunk.DATA_FIELD_NUMBER << 3 | 2
_DATA_TAG = pb.UploadPart.DATA_FIELD_NUMBER << 3 | 2


def _frame(tag: int, data: bytes | memoryview) -> bytes:
    """The message that holds `data` under a one-byte tag and nothing else."""
    size = len(data)
    if size > CHUNK_BYTES:
        raise WireError(f"a chunk of {size} bytes is larger than {CHUNK_BYTES}")
    head = bytearray([tag])
    while size > 0x7F:
        head.append(size & 0x7F | 0x80)
        size >>= 7
    head.append(size)
    return b"".join((head, data))


def _unframe(tag: int, message: bytes) -> memoryview | None:
    """What `_frame` was given, or None for any other message."""
    size, at = 0, 1
    for shift in (0, 7, 14):
        if len(message) <= at or message[0] != tag:
            return None
        byte = message[at]
        size, at = size | (byte & 0x7F) << shift, at + 1
        if byte <= 0x7F:
            return memoryview(message)[at:] if len(message) == at + size <= _FRAME_BYTES else None
    return None


def framed(data: bytes | memoryview) -> memoryview:
    """A copy of `data` inside the `Chunk` that carries it, so that `CHUNK` need not copy it again for any receiver."""
    message = _frame(_CHUNK_TAG, data)
    return memoryview(message)[len(message) - len(data) :]


def _encode_chunk(data: bytes | memoryview) -> bytes:
    if isinstance(data, memoryview) and isinstance(data.obj, bytes):
        whole = _unframe(_CHUNK_TAG, data.obj)
        if whole is not None and len(whole) == len(data):
            return data.obj
    return _frame(_CHUNK_TAG, data)


def _pack_part(value: UploadStart | bytes) -> pb.UploadPart:
    if not isinstance(value, UploadStart):
        return pb.UploadPart(data=value)
    header = pb.UploadHeader(
        session=pack_session(value.session), update=pack_update(value.header), payload=value.payload
    )
    return pb.UploadPart(header=header)


def _unpack_part(message: pb.UploadPart) -> UploadStart | bytes:
    if message.HasField("data"):
        return message.data
    checks.require(message, "header")
    checks.require(message.header, "session", "update")
    session, header = unpack_session(message.header.session), unpack_update(message.header.update)
    if not message.header.HasField("payload"):
        return UploadStart(session, header)
    return UploadStart(session, header, whole_payload(header, message.header.payload))


_ANY_CHUNK: Codec[bytes] = codec(
    pb.Chunk, lambda value: pb.Chunk(data=value), lambda message: message.data, _FRAME_BYTES
)
_ANY_PART: Codec[UploadStart | bytes] = codec(pb.UploadPart, _pack_part, _unpack_part, _FRAME_BYTES)


def _decode_chunk(data: bytes) -> bytes | memoryview:
    chunk = _unframe(_CHUNK_TAG, data)
    return _ANY_CHUNK.decode(data) if chunk is None else chunk


def _encode_part(value: UploadStart | bytes | memoryview) -> bytes:
    return _ANY_PART.encode(value) if isinstance(value, UploadStart) else _frame(_DATA_TAG, value)


def _decode_part(data: bytes) -> UploadStart | bytes | memoryview:
    chunk = _unframe(_DATA_TAG, data)
    return _ANY_PART.decode(data) if chunk is None else chunk


CHUNK: Codec[bytes | memoryview] = Codec(_ANY_CHUNK.name, _encode_chunk, _decode_chunk)
UPLOAD_PART: Codec[UploadStart | bytes | memoryview] = Codec(_ANY_PART.name, _encode_part, _decode_part)
