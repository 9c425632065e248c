"""Protobuf's wire format, as far as ONNX files have it: messages read by their fields' numbers, without a schema and without copies."""

from __future__ import annotations

import struct
from collections.abc import Iterator

_FLOAT32 = struct.Struct("<f")
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5  # wire types


class CutOffError(Exception):
    """A message ends before its fields do."""


class NotProtobufError(Exception):
    """Bytes that are no message."""


class Message:
    """A message's fields by number. One that is absent is empty: no text, no messages.

    Args:
        parts: a message that a file gives in several parts is all of them together, as protobuf has it.

    Raises:
        CutOffError, NotProtobufError: the bytes are no whole message.
    """

    __slots__ = ("_found",)

    def __init__(self, *parts: memoryview) -> None:
        self._found: dict[int, list[memoryview | int | float]] = {}
        for part in parts:
            for field, _whole, value in fields(part):
                if value is not None:
                    self._found.setdefault(field, []).append(value)

    def __contains__(self, field: int) -> bool:
        return field in self._found

    def messages(self, field: int) -> list[Message]:
        """Of a repeated field. Raises what the constructor does."""
        return [Message(body) for body in self._bodies(field)]

    def message(self, field: int) -> Message:
        """Of a field that is there once. Raises what the constructor does."""
        return Message(*self._bodies(field))

    def text(self, field: int, errors: str = "backslashreplace") -> str:
        """The last one, which counts.

        Args:
            errors: what becomes of bytes that are not UTF-8, as `bytes.decode` has it. Writers are not held to UTF-8, and readers
                take what they get: by default such a byte shows as its number, and the text is like none that was meant.

        Raises:
            NotProtobufError: it is not UTF-8, and `errors` is "strict".
        """
        bodies = self._bodies(field)
        try:
            return str(bodies[-1], "utf-8", errors) if bodies else ""
        except UnicodeDecodeError as error:
            raise NotProtobufError("a text that is not UTF-8") from error

    def data(self, field: int) -> memoryview:
        """Bytes, where they lie; the last ones, which count. None: empty."""
        return next(reversed(self._bodies(field)), memoryview(b""))

    def texts(self, field: int) -> tuple[str, ...]:
        """All of them, as `text` reads one."""
        return tuple(str(body, "utf-8", "backslashreplace") for body in self._bodies(field))

    def packed(self, field: int) -> tuple[int, ...]:
        """All numbers of a repeated field, as int64, written one by one or packed.

        Raises:
            CutOffError, NotProtobufError: packed ones end within a number.
        """
        found: list[int] = []
        for value in self._found.get(field, ()):
            if isinstance(value, int):
                found.append(value)
            elif isinstance(value, memoryview):
                position = 0
                while position < len(value):
                    number, position = _varint(value, position)
                    found.append(number)
        return tuple(number - (number >> 63 << 64) for number in found)

    def float32(self, field: int) -> float:
        """The last one, which counts; 0 where there is none."""
        return next((value for value in reversed(self._found.get(field, [])) if isinstance(value, float)), 0.0)

    def numbers(self, field: int) -> list[int]:
        """All of them, as int64."""
        return [value - (value >> 63 << 64) for value in self._found.get(field, ()) if isinstance(value, int)]

    def number(self, field: int) -> int:
        """The last one, which counts, as int64; 0 where there is none."""
        return next(reversed(self.numbers(field)), 0)

    def _bodies(self, field: int) -> list[memoryview]:
        return [value for value in self._found.get(field, ()) if isinstance(value, memoryview)]


def fields(message: memoryview) -> Iterator[tuple[int, memoryview, memoryview | int | float | None]]:
    """Number of each field, the field whole, and its value: the bytes of one with a length, an int of 0 to 2^64 - 1, a float32, or None.

    Raises:
        CutOffError, NotProtobufError: the bytes are no whole message.
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
                raise CutOffError(f"a field of {length:,} bytes begins where {end - position:,} are left")
            value = message[position : position + length]
            position += length
        else:
            raise NotProtobufError(f"wire type {wire}")
        if position > end or field == 0:
            raise CutOffError("it ends within a field")
        yield field, message[start:position], value


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(message):
            raise CutOffError("it ends within a number")
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return value & (1 << 64) - 1, position
    raise NotProtobufError("a number of over ten bytes")


def encoded_key(field: int, length: int) -> bytes:
    """What stands before a field of `length` bytes."""
    return _encoded_varint(field << 3 | _LENGTH) + _encoded_varint(length)


def _encoded_varint(value: int) -> bytes:
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
