"""Files that somebody wrote on purpose: absurd values in every JSON file of an index, with digests that fit again.

Whatever a file says, every command ends within a second of processor time, in bounded memory, with an answer or one
line. Files are signed again without knowing the format: a text that names the old digest of a changed file gets the
new one, and so on up to the file that nothing names.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tortures.cases import Arena, Case, Tally, name_of
from tortures.processes import Bounds, Runner
from tortures.steps import Step, cir
from tortures.worlds import World, everything

CPU_SECONDS = 1.0  # beyond what the same command takes on the sound index
RAW = "\ufdd0"  # stands for text that json.dumps would not write

# Value -> the text in its place, for values of any kind.
VALUES: dict[str, str] = {
    "a number of 5,000 digits": "7" * 5000,
    "a number of 4,000 digits": "7" * 4000,
    "10**12": str(10**12),
    "2**63": str(2**63),
    "-1": "-1",
    "0": "0",
    "1e308": "1e308",
    "a fraction": "0.5",
    "NaN": "NaN",
    "-Infinity": "-Infinity",
    "null": "null",
    "true": "true",
    "an empty string": '""',
    "NUL": '"a\\u0000b"',
    "half a surrogate": '"\\ud800"',
    "control characters": '"\\u001b[2J\\u001b]0;x\\u0007\\n\\rcir: all is well"',
    "a path upwards": '"../../../../../../etc/passwd"',
    "a device": '"/dev/zero"',
    "a long string": json.dumps("x" * 5_000_000),
    "an empty list": "[]",
    "an empty object": "{}",
    "an object in a list": '[{"a": []}]',
    "a deep list": "[" * 100_000 + "]" * 100_000,
    "a list too deep to read": "[" * 900 + "]" * 900,
    "a long list": "[" + "0," * 300_000 + "0]",
    "runs of 10**12 rows": f"[[0, {10**12}]]",
    "runs of 10**9 rows": f"[[0, {10**9}]]",
    "a run backwards": "[[9, 0]]",
}
# Whole contents of a file.
CONTENTS: dict[str, bytes] = {
    "nothing": b"",
    "NUL": bytes(100),
    "null": b"null",
    "a list": b"[]",
    "an object": b"{}",
    "a number of 5,000 digits": b"7" * 5000,
    "100,000 brackets": b"[" * 100_000,
    "no UTF-8": b"\xff\xfe\xfa",
    "half a line": b"000001.json",
    "a name upwards": b"../../../etc/passwd " + b"0" * 64 + b"\n",
    "a name with NUL": b"000\x00001.json " + b"0" * 64 + b"\n",
    "a long line": b"x" * 3_000_000 + b" " + b"0" * 64 + b"\n",
    "many words": b"a b c d e\n" * 1000,
}


def torture(arena: Arena, tally: Tally, count: int) -> None:
    """One crafted file per case."""
    runner = Runner(arena.scratch)
    world = everything(runner, arena.scratch / "crafted")
    cost = max(runner.run(step).cpu for step in _commands(world, world.index))
    for number in range(count):
        with arena.case(tally, number) as case:
            if case:
                index = world.copy(case.folder / "x.index")
                case.rng.choice([*[_json_value] * 5, _whole, _member, _special])(case, index)
                _commands_end(case, world, index, cost)
    shutil.rmtree(arena.scratch / "crafted")


def _commands(world: World, index: Path) -> list[Step]:
    return [
        Step("ask", {"index": str(index)}),
        cir("verify", index),
        cir("info", index),
        cir("questions", index),
        Step(world.rebuild.name, {**world.rebuild.arguments, "index": str(index)}),
        cir("rollback", index, "--to", min(world.generations)),
    ]


def _commands_end(case: Case, world: World, index: Path, cost: float) -> None:
    """Run every command; those that change the index come last."""
    for step in _commands(world, index):
        ended = case.run(step, Bounds(seconds=15), codes=(0, 1, 2))
        case.count(f"exit {ended.code}")
        if not ended.hung and ended.cpu > CPU_SECONDS + cost:
            case.found("hang", f"{name_of(step)}: {ended.cpu:.1f} s of processor time; {ended}")


def _json_value(case: Case, index: Path) -> None:
    """Replace one value in a JSON file, or its key, or drop it."""
    contents = {path: _parsed(path) for path in sorted(index.rglob("*")) if path.is_file()}
    places = [(path, place) for path, content in contents.items() for place in _places(content)]
    path, (holder, key, words) = case.rng.choice(places)
    content = contents[path]
    how = case.rng.random()
    if how < 0.1:
        del holder[key]
        what = "left out"
        text = json.dumps(content)
    elif how < 0.2 and isinstance(holder, list):
        holder.append(holder[key])
        what = "twice"
        text = json.dumps(content)
    else:
        what = case.rng.choice(sorted(VALUES))
        holder[key] = RAW
        text = json.dumps(content, ensure_ascii=False).replace(f'"{RAW}"', VALUES[what])
    case.did.append(f"{path.relative_to(index)}: {words} is {what}")
    rewrite(index, path, text.encode("utf-8", "surrogatepass"))


def _whole(case: Case, index: Path) -> None:
    """Replace the content of a small file."""
    files = [path for path in sorted(index.rglob("*")) if path.is_file()]
    path = case.rng.choice(files if case.rng.random() < 0.7 else [p for p in files if p.parent == index])
    what = case.rng.choice(sorted(CONTENTS))
    case.did.append(f"{path.relative_to(index)} holds {what}")
    rewrite(index, path, CONTENTS[what])


def _member(case: Case, index: Path) -> None:
    """Replace the content of a file in a zip, or let it unpack to a gigabyte."""
    path = case.rng.choice([path for path in sorted(index.rglob("*")) if path.is_file() and zipfile.is_zipfile(path)])
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    changed = case.rng.choice([name for name in members if "." in name] or list(members))
    what = case.rng.choice([*sorted(CONTENTS), "a gigabyte of zeros", "a deep line"])
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            with archive.open(name, "w") as file:
                if name == changed and what == "a gigabyte of zeros":
                    for _ in range(1024):
                        file.write(bytes(1 << 20))
                elif name == changed:
                    file.write(CONTENTS.get(what, b'{"id": ' + b"[" * 100_000 + b"}\n"))
                else:
                    file.write(data)
    case.did.append(f"{path.relative_to(index)}: {changed} holds {what}")
    rewrite(index, path, buffer.getvalue())


def _special(case: Case, index: Path) -> None:
    """Put something else than a file, or than a folder, in its place."""
    path = case.rng.choice(sorted(path for path in index.rglob("*") if path.name != "LOCK"))
    makers: dict[str, Callable[[], object]] = {
        "a pipe": lambda: os.mkfifo(path),
        "a link to /dev/zero": lambda: path.symlink_to("/dev/zero"),
        "a link to itself": lambda: path.symlink_to(path),
        "a folder": lambda: path.mkdir(),
        "a file": lambda: path.write_bytes(b"x"),
        "a sparse file of 1 TB": lambda: _sparse(path),
    }
    what = case.rng.choice(sorted(makers))
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    makers[what]()
    case.did.append(f"{path.relative_to(index)} is {what}")


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


def rewrite(index: Path, path: Path, data: bytes) -> None:
    """Change a file of an index, and sign again whatever names its digest.

    Sizes that stand beside the digest are corrected too.
    """
    old, size = hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_size
    path.write_bytes(data)
    new = hashlib.sha256(data).hexdigest()
    if old == new:
        return
    for other in sorted(index.rglob("*")):
        if other == path or not other.is_file() or other.stat().st_size > 1 << 24:
            continue
        text = other.read_bytes()
        if old.encode() in text:
            rewrite(index, other, _resigned(text, old, new, size, len(data)))


def _resigned(text: bytes, old: str, new: str, size: int, now: int) -> bytes:
    """A text that names a digest with the new one, and the size that its object notes."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return text.replace(old.encode(), new.encode())
    for holder, key, _ in list(_places(content)):
        if isinstance(holder, dict) and holder[key] == old:
            for name, value in holder.items():
                if type(value) is int and value == size:
                    holder[name] = now
    return json.dumps(content, indent=1, sort_keys=True).replace(old, new).encode()


def _parsed(path: Path) -> Any:
    """The list or object in a file; None for any other content."""
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, (dict, list)) and content else None


def _places(content: Any, words: str = "") -> Iterator[tuple[Any, Any, str]]:
    """Every place of a value in a JSON document: its holder, its key there, and the way in words."""
    keys = list(content) if isinstance(content, dict) else range(len(content)) if isinstance(content, list) else ()
    for key in keys:
        here = f"{words}.{key}" if words else str(key)
        yield content, key, here
        yield from _places(content[key], here)
