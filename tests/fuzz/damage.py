"""Ways in which files are damaged: bytes, texts of numbers and names, trees of JSON, headers, and non-files."""

from __future__ import annotations

import copy
import json
import os
import random
import re
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ODD = ["", "0", "-1", "1e12", "1e308", "-0.0", "nan", "inf", "9223372036854775808", "1" * 400, "true", "[]", "{}", '""']
ODD += [
    '"x"',
    "../../x",
    "/x",
    "\x1b[31m",
    "\u202e",
    "$\\frac$",
    "=1+1",
    "<b>",
    "a\0b",
    "\ud800",
    "[[",
    "x" * 5000,
    "~",
]
"""Texts that programs trip over."""

WRONG: list[Any] = [None, True, False, 0, -1, 1, 10**12, 2**63, 1e308, -0.5, "", "x", "nan", "../../x", [], {}, [[]]]
WRONG += [["x"], {"x": 1}, [1e9] * 3, "vp-linear:0.1,0.2,1000000000000", "a\0b", "\x1b[2J", 10**400]
"""Values of JSON that a setting rarely has."""

_TOKEN = re.compile(r"[A-Za-z0-9_.+-]+|\"[^\"]*\"|[^\sA-Za-z0-9]")
_LARGE = (b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\x80")
Damage = Callable[[random.Random, bytes], bytes]


def encoded(text: str) -> bytes:
    """As UTF-8, with what cannot be in it."""
    return text.encode("utf-8", "surrogatepass")


def damaged_bytes(rng: random.Random, content: bytes, times: int = 3) -> bytes:
    """Bits flipped, a part cut, doubled, zeroed or replaced; mostly near the start, where headers are."""
    data = bytearray(content)
    for _ in range(rng.randint(1, times)):
        size = max(len(data), 1)
        place = min(int(rng.random() ** rng.choice((1, 4)) * size), size - 1)
        length = rng.choice((1, 2, 4, 8, 64, size // 4))
        match rng.randrange(7):
            case 0 | 1 if data:
                data[place] ^= 1 << rng.randrange(8)
            case 2:
                del data[place : place + length]
            case 3:
                data[place:place] = data[place : place + length]
            case 4:
                data[place : place + length] = bytes(min(length, size - place))
            case 5:
                data[place : place + length] = rng.randbytes(min(length, size))
            case _:
                data[place : place + 4] = rng.choice(_LARGE)
    return bytes(data)


def in_words(rng: random.Random, text: str, times: int = 3) -> str:
    """Words replaced by odd ones or each other, lines dropped or doubled; at times bytes instead."""
    for _ in range(rng.randint(1, times)):
        words, lines = list(_TOKEN.finditer(text)), text.split("\n")
        match rng.randrange(8):
            case 0 | 1 | 2 | 3 | 4 if words:
                word, other = rng.choice(words), rng.choice([*ODD, *(w[0] for w in rng.choices(words, k=7))])
                text = text[: word.start()] + other + text[word.end() :]
            case 5:
                lines.insert(rng.randrange(len(lines) + 1), rng.choice(lines))
                text = "\n".join(lines)
            case 6:
                lines.pop(rng.randrange(len(lines)))
                text = "\n".join(lines)
            case _:
                text = damaged_bytes(rng, encoded(text), 1).decode("utf-8", "replace")
    return text


def damaged_text(rng: random.Random, content: bytes) -> bytes:
    """A file of text, by its words; at times by its bytes."""
    return encoded(in_words(rng, content.decode("latin-1"))) if rng.random() < 0.8 else damaged_bytes(rng, content)


def in_tree(rng: random.Random, tree: Any, times: int = 2) -> Any:
    """A value of JSON with entries replaced by wrong ones, dropped or added."""
    tree = copy.deepcopy(tree)
    for _ in range(rng.randint(1, times)):
        places = list(_places(tree))
        if not places:
            return copy.deepcopy(rng.choice(WRONG))
        parent, key = rng.choice(places)
        match rng.randrange(6):
            case 0:
                del parent[key]
            case 1 if isinstance(parent, dict):
                parent[rng.choice(["x", "__class__", "../x", "where", "settings"])] = copy.deepcopy(rng.choice(WRONG))
            case 2 if isinstance(parent[key], int | float) and not isinstance(parent[key], bool):
                parent[key] = rng.choice([parent[key] * 1000, -parent[key], 10**9, 0, 0.5, 2**62])
            case _:
                parent[key] = copy.deepcopy(rng.choice(WRONG))
    return tree


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield tree, key
        yield from _places(value)


def damaged_json(rng: random.Random, content: bytes) -> bytes:
    """JSON with a wrong value, damaged as a text, or nested a hundred thousand deep."""
    chance = rng.random()
    if chance < 0.03:
        return b"[" * 100_000 + b"]" * 100_000
    return damaged_text(rng, content) if chance < 0.2 else json.dumps(in_tree(rng, json.loads(content))).encode()


def damaged_metadata(rng: random.Random, content: bytes) -> bytes:
    """A safetensors file with another text of JSON in its metadata; at times with other bytes."""
    if rng.random() < 0.2:
        return damaged_bytes(rng, content)
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length])
    key = rng.choice(list(header["__metadata__"]))
    header["__metadata__"][key] = damaged_json(rng, header["__metadata__"][key].encode()).decode("utf-8", "replace")
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + content[8 + length :]


def by_kind(rng: random.Random, content: bytes) -> bytes:
    """A file of JSON by its values, any other by its bytes."""
    return damaged_json(rng, content) if content[:1] in b"{[" and content else damaged_bytes(rng, content)


def put(rng: random.Random, path: Path, content: bytes) -> None:
    """Write a file, or at times a folder, link or pipe in its place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    match rng.randrange(60):
        case 0:
            os.mkfifo(path)
        case 1:
            path.mkdir()
        case 2:
            path.symlink_to(path.with_name("nowhere"))
        case 3:
            path.symlink_to(rng.choice(("/dev/zero", "/dev/stdin", path.name, "/proc/self/mem", "..")))
        case 4:
            path.write_bytes(b"")
        case 5:
            path.write_bytes(b"<!doctype html><html><body>404</body></html>")
        case 6:
            path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
        case _:
            path.write_bytes(content)
