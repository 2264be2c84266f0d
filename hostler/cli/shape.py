"""The JSON that programs get: the protocol's messages, field by field, always with all keys.

Unlike protobuf's own JSON mapping, 64-bit integers stay numbers. Timestamps are RFC 3339 in UTC with microseconds,
bytes are base64, what is not set is null.
"""

import base64
from datetime import UTC
from typing import Any

import msgspec
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp


def to_json(message: Message, *, lines: bool = False) -> str:
    """`lines`: all in one line, for streams."""
    encoded = msgspec.json.encode(_shaped(message))
    return (encoded if lines else msgspec.json.format(encoded)).decode()


def _shaped(message: Message) -> Any:
    if isinstance(message, Timestamp):
        return message.ToDatetime(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    return {
        field.name: _field(message, field.name, repeated=field.is_repeated, optional=field.has_presence)
        for field in message.DESCRIPTOR.fields
    }


def _field(message: Message, name: str, *, repeated: bool, optional: bool) -> Any:
    value = getattr(message, name)
    if repeated:
        return [_value(element) for element in value]
    if optional and not message.HasField(name):
        return None
    return _value(value)


def _value(value: Any) -> Any:
    if isinstance(value, Message):
        return _shaped(value)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return value
