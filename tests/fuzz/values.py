"""Damage to what JSON and YAML hold, and to the headers of safetensors, TIFF and zip files."""

from __future__ import annotations

import copy
import io
import json
import random
import struct
import warnings
import zipfile
from typing import Any

import yaml
from fuzz.damage import NUMBERS, Others, damaged

DEEP = "@deep@"
"""Stands for lists in lists in lists, until the text is written."""

STRANGE: tuple[Any, ...] = (
    *(None, True, False, "", "x", "auto", "fp16", "1e400", "nan", "0x10", "1_000", "2001-12-14"),
    *(-1, 0, 1, 3, 8, 1000, 10**6, 2**31, 2**63, 2**64, 10**30, -(2**63), 10**400),
    *(0.5, -0.0, 1e-320, 1e308, float("inf"), float("-inf"), float("nan")),
    *([], [[]], [0] * 5, {}, {"": {}}, {"a": {"b": {"c": 1}}}, [None], [10**30]),
    *("../../../../etc/hostname", "/etc/hostname", "planted/secret", "a\0b", "\x1b[2J\x1b]0;x\x07"),
    *("\u202e\u2066evil\u2069", "\ud800", "long " * 3000, "\n\n\n", DEEP),
)
"""Values of other types, sizes and meanings than what any setting expects."""


def _paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path]
    if isinstance(value, dict):
        for key, inner in value.items():
            found += _paths(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value[:20]):
            found += _paths(inner, (*path, index))
    return found


def changed(rng: random.Random, value: Any) -> Any:
    """The value with one to four of its parts exchanged, dropped, renamed or repeated."""
    value = copy.deepcopy(value)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        paths = [path for path in _paths(value) if path]
        if not paths:
            return rng.choice(STRANGE)
        path = rng.choice(paths)
        parent = value
        for key in path[:-1]:
            parent = parent[key]
        _change(rng, parent, path[-1])
    return rng.choice(STRANGE) if rng.random() < 0.02 else value


def _change(rng: random.Random, parent: Any, key: Any) -> None:
    way, old = rng.randrange(10), parent[key]
    if way < 5:
        parent[key] = rng.choice(STRANGE)
    elif way < 7 and isinstance(old, (int, float)) and not isinstance(old, bool):
        parent[key] = rng.choice((old + 1, old - 1, -old, old * 10**6, rng.choice(NUMBERS)))
    elif way < 7 and isinstance(old, str):
        parent[key] = damaged(rng, old.encode()).decode(errors="replace")
    elif way == 7:
        del parent[key]
    elif isinstance(parent, dict):
        parent[rng.choice(["", "x", "format", str(key).upper(), f"{key}\n"])] = parent.pop(key)
    else:
        parent.insert(key, old)


def _with_depth(rng: random.Random, text: str) -> str:
    depth = rng.choice((50, 500, 5000, 200_000))
    return text.replace(f'"{DEEP}"', "[" * depth + "]" * depth).replace(DEEP, "[" * depth)


def changed_json(rng: random.Random, data: bytes, others: Others = ()) -> bytes:
    """A JSON file that is still JSON most of the time."""
    if rng.random() < 0.3:
        return damaged(rng, data, others)
    indent = rng.choice((None, 2))
    try:
        text = json.dumps(changed(rng, json.loads(data)), indent=indent)
    except (ValueError, RecursionError):
        return damaged(rng, data, others)
    return _with_depth(rng, text).encode(errors="surrogatepass")


BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{','.join([f'*{chr(97 + i)}'] * 9)}]\n" for i in range(9)
)
YAML_TRICKS = (
    BOMB,
    "&a [*a]\n",
    "&a {b: *a}\n",
    "data: &d {batch: *d}\n",
    "!!python/object/apply:os.system ['touch planted/ran']\n",
    "data: !!python/name:os.system\n",
    "data: !!python/object/new:os.system [id]\n",
    "data:\n  batch: !!binary aGVsbG8=\n",
    "data:\n  batch: !!int 'x'\n",
    "data:\n  batch: 2001-99-14\n",
    "data:\n  batch: 2001-12-14t21:59:43.10-05:00\n",
    "data:\n  batch: !!timestamp x\n",
    "data:\n  batch: 1:99999999999999999999:1\n",
    "data:\n  batch: !!float ''\n",
    "data:\n  batch: 0b\n",
    "data:\n  batch: 0x\n",
    "data:\n  batch: !!set {a, b}\n",
    "data:\n  batch: !!omap [a: 1]\n",
    "data:\n  batch: !!pairs [a: 1, a: 2]\n",
    "? [a, b]\n: c\n",
    "? {a: b}\n: c\n",
    "<<: [1, 2]\n",
    "<<: x\n",
    "=: x\n",
    "data:\n  =: x\n",
    "data: {<<: {batch: 1}}\n",
    "%YAML 9.9\n---\ndata: {}\n",
    "%TAG ! tag:x,2000:\n---\n!x y\n",
    "data: {batch: 1}\n---\ndata: {batch: 2}\n",
    "data:\n\tbatch: 1\n",
    "data:\n  batch: " + "9" * 5000 + "\n",
    "1: 2\n",
    "null: {}\n",
    "[a, b\n",
    "'data: {}\n",
    "a" * 200_000 + "\n",
    "data:\n  batch: |\n" + "   x\n" * 2000,
    "- " * 3000 + "x\n",
    "{a: " * 3000 + "x\n",
    "[" * 100_000,
    "\ufeffdata: {batch: 1}\n",
    "data: {batch: \x07}\n",
    "data: {batch: '\x85\u2028'}\n",
)
"""Whole files that a parser of YAML, or what takes its result, may stumble over."""


def changed_yaml(rng: random.Random, data: bytes, others: Others = ()) -> bytes:
    """A YAML file of settings."""
    way = rng.random()
    if way < 0.15:
        return damaged(rng, data, others)
    if way < 0.3:
        trick = rng.choice(YAML_TRICKS)
        return (trick if rng.random() < 0.7 else data.decode() + trick).encode()
    try:
        value = yaml.safe_load(data)
        text = yaml.safe_dump(changed(rng, value), sort_keys=False, allow_unicode=True)
    except (yaml.YAMLError, UnicodeError, RecursionError):
        return damaged(rng, data, others)
    text = _with_depth(rng, text.replace(f"'{DEEP}'", DEEP))
    encoded = text.encode(rng.choice(("utf-8",) * 8 + ("utf-16", "latin-1")), errors="replace")
    return damaged(rng, encoded, others) if rng.random() < 0.1 else encoded


_TYPES = ("F32", "F16", "BF16", "F64", "I64", "I8", "U8", "BOOL", "F8_E4M3", "C64", "F4", "X")


def changed_safetensors(rng: random.Random, data: bytes, others: Others = ()) -> bytes:
    """A safetensors file whose header is another, or whose tensors are."""
    size = int.from_bytes(data[:8], "little")
    if rng.random() < 0.25 or size > len(data):
        return damaged(rng, data, others)
    header, body = json.loads(data[8 : 8 + size]), data[8 + size :]
    way = rng.randrange(8)
    names = [name for name in header if name != "__metadata__"]
    entry = header[rng.choice(names)]
    if way < 2 and header.get("__metadata__"):  # what srtrt itself says of the file
        facts = header["__metadata__"]
        key = rng.choice(sorted(facts))
        facts[key] = changed_json(rng, facts[key].encode()).decode(errors="replace")
    elif way == 2:
        entry["dtype"] = rng.choice(_TYPES)
    elif way == 3:
        entry["shape"] = changed(rng, entry["shape"])
    elif way == 4:
        entry["data_offsets"] = changed(rng, entry["data_offsets"])
    elif way == 5:
        old = rng.choice(names)
        new = rng.choice([*names, "x", "", f"{old}.", old.upper(), "a" * 5000, "\x1b[2J"])
        header[new] = header.pop(old)
    elif way == 6:
        header = changed(rng, header)
    else:
        body = damaged(rng, body, others)
    text = _with_depth(rng, json.dumps(header)).encode(errors="replace")
    length = rng.choice(NUMBERS) if rng.random() < 0.05 else len(text)
    return struct.pack("<Q", length % 2**64) + text + body


def changed_tiff(rng: random.Random, data: bytes, others: Others = ()) -> bytes:
    """A TIFF whose directory has other entries."""
    order = "<" if data[:2] == b"II" else ">"
    result = bytearray(data)
    try:
        (start,) = struct.unpack_from(f"{order}I", data, 4)
        (count,) = struct.unpack_from(f"{order}H", data, start)
        for _ in range(rng.choice((1, 1, 2, 4))):
            at = start + 2 + 12 * rng.randrange(count)
            part, code = rng.choice(((0, "H"), (2, "H"), (4, "I"), (8, "I"), (8, "I")))
            value = rng.choice(
                (*NUMBERS, *range(1, 19), 254, 257, 273, 277, 322, 338, 34675, 34665)
            )
            limit = 2**16 if code == "H" else 2**32
            struct.pack_into(f"{order}{code}", result, at + part, value % limit)
    except (struct.error, ValueError):
        return damaged(rng, data, others)
    return bytes(result)


def changed_zip(rng: random.Random, data: bytes, others: Others = ()) -> bytes:
    """A zip file, such as a checkpoint of PyTorch, with another pickle or other names in it."""
    if rng.random() < 0.3:
        return damaged(rng, data, others)
    result = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that come twice
        entries = [(info.filename, old.read(info)) for info in old.infolist()]
        with zipfile.ZipFile(result, "w", rng.choice((0, 0, 0, 8))) as new:
            chosen = rng.randrange(len(entries))
            pickles = [i for i, (name, _) in enumerate(entries) if name.endswith(".pkl")]
            if pickles and rng.random() < 0.6:
                chosen = pickles[0]
            for index, (name, body) in enumerate(entries):
                if index == chosen:
                    if rng.random() < 0.1:
                        continue
                    if rng.random() < 0.2:
                        name = rng.choice(("../planted/secret", "/etc/hostname", name * 9, "a\0b"))
                    body = (
                        _changed_pickle(rng, body) if name.endswith(".pkl") else damaged(rng, body)
                    )
                new.writestr(zipfile.ZipInfo(name), body)
    return result.getvalue()


def _changed_pickle(rng: random.Random, body: bytes) -> bytes:
    if rng.random() < 0.2:
        pairs = ((b"torch._utils\n", b"os\n"), (b"_rebuild_tensor_v2\n", b"system\n"))
        for old, new in pairs:
            body = body.replace(old, new)
        return body
    if rng.random() < 0.3:  # sizes and strides of tensors: small numbers
        spots = [i for i, byte in enumerate(body[:-1]) if byte == ord("K")]
        if spots:
            at = rng.choice(spots) + 1
            return body[:at] + bytes([rng.randrange(256)]) + body[at + 1 :]
    return damaged(rng, body)
