"""Protobuf's wire format, as ONNX files use it. It reads messages by field number, without a schema or copies."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from pathlib import Path

_FLOAT32 = struct.Struct("<f")
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5  # wire types


class TruncatedError(Exception):
    """A message ends within a field."""


class NotProtobufError(Exception):
    """The bytes are not a message."""


def mapped(path: Path) -> memoryview:
    """A file's bytes, mapped into memory: nothing is read before it is used.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        if not path.stat().st_size:  # an empty file cannot be mapped
            return memoryview(b"")
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


class Message:
    """The fields of a message, by number. An absent field is empty: no text, no messages.

    Args:
        parts: the message. If a file has one message in several parts, protobuf merges them.

    Raises:
        TruncatedError, NotProtobufError: the bytes are not a whole message.
    """

    __slots__ = ("_values",)

    def __init__(self, *parts: memoryview) -> None:
        self._values: dict[int, list[memoryview | int | float]] = {}
        for part in parts:
            for field, _whole, value in fields(part):
                if value is not None:
                    self._values.setdefault(field, []).append(value)

    def __contains__(self, field: int) -> bool:
        return field in self._values

    def messages(self, field: int) -> list[Message]:
        """The messages of a repeated field. Raises the same errors as the constructor."""
        return [Message(body) for body in self._bodies(field)]

    def message(self, field: int) -> Message:
        """The message of a single field. Raises the same errors as the constructor."""
        return Message(*self._bodies(field))

    def text(self, field: int, errors: str = "backslashreplace") -> str:
        """The last text of a field; protobuf ignores earlier ones.

        Args:
            errors: how to decode bytes that are not UTF-8, as in `bytes.decode`. Writers may write such bytes and
                readers accept them. By default each becomes an escape sequence.

        Raises:
            NotProtobufError: the text is not UTF-8, and `errors` is "strict".
        """
        bodies = self._bodies(field)
        try:
            return str(bodies[-1], "utf-8", errors) if bodies else ""
        except UnicodeDecodeError as error:
            raise NotProtobufError("a text that is not UTF-8") from error

    def data(self, field: int) -> memoryview:
        """The last bytes of a field, without a copy; empty if there are none. Protobuf ignores earlier ones."""
        return next(reversed(self._bodies(field)), memoryview(b""))

    def values(self, field: int) -> tuple[memoryview | int | float, ...]:
        """All values of a field, as `fields` yields them."""
        return tuple(self._values.get(field, ()))

    def texts(self, field: int) -> tuple[str, ...]:
        """All texts of a repeated field, decoded as `text` does."""
        return tuple(str(body, "utf-8", "backslashreplace") for body in self._bodies(field))

    def packed(self, field: int) -> tuple[int, ...]:
        """All numbers of a repeated field, as int64, written one by one or packed.

        Raises:
            TruncatedError, NotProtobufError: packed bytes end within a number.
        """
        numbers: list[int] = []
        for value in self._values.get(field, ()):
            if isinstance(value, int):
                numbers.append(value)
            elif isinstance(value, memoryview):
                position = 0
                while position < len(value):
                    number, position = _varint(value, position)
                    numbers.append(number)
        return tuple(map(_signed, numbers))

    def float32(self, field: int) -> float:
        """The last float of a field; 0 if there is none. Protobuf ignores earlier ones."""
        return next((value for value in reversed(self._values.get(field, [])) if isinstance(value, float)), 0.0)

    def numbers(self, field: int) -> list[int]:
        """All numbers of a field that is not packed, as int64."""
        return [_signed(value) for value in self._values.get(field, ()) if isinstance(value, int)]

    def number(self, field: int) -> int:
        """The last number of a field, as int64; 0 if there is none. Protobuf ignores earlier ones."""
        return next(reversed(self.numbers(field)), 0)

    def _bodies(self, field: int) -> list[memoryview]:
        return [value for value in self._values.get(field, ()) if isinstance(value, memoryview)]


def _signed(number: int) -> int:
    """An unsigned 64-bit number as int64."""
    return number - (number >> 63 << 64)


def fields(message: memoryview) -> Iterator[tuple[int, memoryview, memoryview | int | float | None]]:
    """Yields each field's number, its bytes including the key, and its value.

    A field with a length gives a memoryview, a varint an int from 0 to 2^64 - 1. A float32 gives a float, and 64 fixed
    bits give None.

    Raises:
        TruncatedError, NotProtobufError: the bytes are not a whole message.
    """
    position, end = 0, len(message)
    while position < end:
        start = position
        key, position = _varint(message, position)
        field, wire, start_of_value = key >> 3, key & 7, position
        value: memoryview | int | float | None = None
        if wire == _VARINT:
            value, position = _varint(message, position)
        elif wire == _FIXED64:
            position += 8
        elif wire == _FIXED32:
            position += 4
            value = _FLOAT32.unpack(message[start_of_value:position])[0] if position <= end else None
        elif wire == _LENGTH:
            length, position = _varint(message, position)
            if position + length > end:
                raise TruncatedError(f"a field has {length:,} bytes, but only {end - position:,} are left")
            value = message[position : position + length]
            position += length
        else:
            raise NotProtobufError(f"wire type {wire}")
        if position > end or field == 0:
            raise TruncatedError("it ends within a field")
        yield field, message[start:position], value


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(message):
            raise TruncatedError("it ends within a number")
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return value & (1 << 64) - 1, position
    raise NotProtobufError("a number of more than ten bytes")


def encoded_key(field: int, length: int) -> bytes:
    """The key and length that precede the `length` bytes of a field."""
    return _encoded_varint(field << 3 | _LENGTH) + _encoded_varint(length)


def _encoded_varint(value: int) -> bytes:
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
