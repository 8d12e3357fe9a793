"""Damage that knows nothing of the file: bytes flipped, cut, repeated, exchanged."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

NUMBERS = (
    *(0, 1, 2, 7, 8, 16, 255, 256, 1000, 32767, 32768, 65535, 65536, 1 << 20, 1 << 24),
    *(2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1),
)
"""Values at which sizes, counts and times go wrong."""

_EDGE = 600
"""Bytes at the start and at the end of a file that are hit more often: headers and indexes."""

Others = Sequence[bytes]
"""Further files of the same kind, whose parts may be put in."""


def place(rng: random.Random, length: int) -> int:
    """A position in a file, half of the time near its start or its end."""
    if length == 0:
        return 0
    region = rng.randrange(4)
    if region == 0:
        return rng.randrange(min(length, _EDGE))
    if region == 1:
        return length - 1 - rng.randrange(min(length, _EDGE))
    return rng.randrange(length)


def flip(rng: random.Random, data: bytearray, _: Others) -> None:
    """One to eight bits."""
    for _i in range(rng.choice((1, 1, 2, 8))):
        if data:
            data[place(rng, len(data))] ^= 1 << rng.randrange(8)


def noise(rng: random.Random, data: bytearray, _: Others) -> None:
    """A run of random bytes in place of others."""
    at, length = place(rng, len(data)), rng.choice((1, 2, 4, 16, 200, 2000))
    length = min(length, len(data) - at)
    data[at : at + length] = rng.randbytes(length)


def zeros(rng: random.Random, data: bytearray, _: Others) -> None:
    """A run of equal bytes."""
    at, length = place(rng, len(data)), rng.choice((1, 4, 16, 500, 4000))
    length = min(length, len(data) - at)
    data[at : at + length] = bytes([rng.choice((0, 0, 255, 0x20))]) * length


def number(rng: random.Random, data: bytearray, _: Others) -> None:
    """An extreme number in 1, 2, 4 or 8 bytes, of either order."""
    size = rng.choice((1, 2, 4, 4, 8))
    if len(data) < size:
        return
    at = min(place(rng, len(data)), len(data) - size)
    if rng.random() < 0.7:
        at -= at % min(size, 4)
    value = rng.choice(NUMBERS) % (1 << 8 * size)
    data[at : at + size] = value.to_bytes(size, rng.choice(("big", "little")))


def cut(rng: random.Random, data: bytearray, _: Others) -> None:
    """The end is missing."""
    del data[place(rng, len(data)) :]


def lose(rng: random.Random, data: bytearray, _: Others) -> None:
    """Some bytes are missing in the middle, so that all after them move."""
    at = place(rng, len(data))
    del data[at : at + rng.choice((1, 2, 4, 188, 1000))]


def insert(rng: random.Random, data: bytearray, _: Others) -> None:
    """Some bytes are too many."""
    at, length = place(rng, len(data)), rng.choice((1, 2, 4, 64, 1000))
    data[at:at] = rng.choice((bytes(length), rng.randbytes(length)))


def repeat(rng: random.Random, data: bytearray, _: Others) -> None:
    """A part comes again, at once or elsewhere."""
    at, length = place(rng, len(data)), rng.choice((4, 16, 188, 1000, 5000))
    part = bytes(data[at : at + length])
    to = at if rng.random() < 0.5 else place(rng, len(data))
    data[to:to] = part * rng.choice((1, 1, 2, 50))


def exchange(rng: random.Random, data: bytearray, _: Others) -> None:
    """Two parts change places."""
    length = rng.choice((1, 4, 16, 188, 1000))
    if len(data) < 2 * length:
        return
    first, second = sorted(rng.sample(range(len(data) - length + 1), 2))
    one, two = data[first : first + length], data[second : second + length]
    data[first : first + length], data[second : second + length] = two, one


def splice(rng: random.Random, data: bytearray, others: Others) -> None:
    """The start of this file and the end of another, or a part of another in the middle."""
    if not others:
        return
    other = rng.choice(others)
    if rng.random() < 0.5:
        del data[place(rng, len(data)) :]
        data += other[place(rng, len(other)) :]
        return
    start, length, at = place(rng, len(other)), rng.choice((16, 500, 5000)), place(rng, len(data))
    part = other[start : start + length]
    data[at : at + len(part)] = part


WAYS: tuple[Callable[[random.Random, bytearray, Others], None], ...] = (
    *(flip, flip, noise, zeros, number, number, number, cut),
    *(lose, insert, repeat, exchange, splice),
)


def damaged(rng: random.Random, data: bytes, others: Others = ()) -> bytes:
    """The data with one to eight kinds of damage."""
    result = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        rng.choice(WAYS)(rng, result, others)
    return bytes(result)
