"""What this user has indexed, and which models were used for it: a file of the user's own, outside every index.

An index may come from somebody else, so what it says about files elsewhere is not trusted: photos are read only below
folders that this user has indexed on this machine, and a model's folder is taken from here.

The file is `cir/known.jsonl` in `$XDG_STATE_HOME`, by default `~/.local/state`. Each line is one folder; lines are only
appended, in one write, so that several processes do not lose each other's.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from cir.images.crops import without_box
from cir.places import is_url, url_of

log = logging.getLogger(__name__)


def known_file() -> Path:
    """Where the record of this user is."""
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "cir" / "known.jsonl"


def known_roots() -> frozenset[str]:
    """Real paths of the folders, zips and files that this user has indexed or decided to trust."""
    return frozenset(line["root"] for line in _lines() if isinstance(line.get("root"), str))


def is_known(root: str, known: frozenset[str]) -> bool:
    """Whether a folder, or the file of a crop, is one of some real paths, or below one, wherever links lead."""
    if is_url(root):
        url = url_of(without_box(root))
        return any(url == place or url.startswith(f"{place}/") for place in known if is_url(place))
    try:
        real = Path(os.path.realpath(without_box(root)))
    except (OSError, ValueError):  # a NUL character
        return False
    return any(str(place) in known for place in (real, *real.parents))


def remember_roots(roots: Iterable[str]) -> None:
    """Record roots that this user indexes or trusts. Where the record cannot be written, a warning says so."""
    known = known_roots()
    _append({"root": root} for root in dict.fromkeys(map(without_box, roots)) if root not in known)


def model_folders(digest: str) -> list[Path]:
    """Folders in which this user has had a model, the latest first; it may have moved since."""
    folders = [line.get("folder") for line in _lines() if line.get("model") == digest]
    return [Path(folder) for folder in dict.fromkeys(reversed(folders)) if isinstance(folder, str)]


def remember_model(digest: str, folder: Path) -> None:
    """Record the folder of a model that this user indexes with."""
    if [folder] != model_folders(digest)[:1]:
        _append([{"model": digest, "folder": str(folder)}])


def _lines() -> Iterator[dict[str, Any]]:
    try:
        text = known_file().read_text("utf-8", errors="surrogateescape")
    except (OSError, RuntimeError):  # no home folder is a RuntimeError
        return
    for line in text.splitlines():
        try:
            values = json.loads(line)
        except (ValueError, RecursionError):  # the last line may be half written
            continue
        if isinstance(values, dict) and ("root" in values or {"model", "folder"} <= values.keys()):
            yield values


def _append(lines: Iterable[dict[str, str]]) -> None:
    data = "".join(json.dumps(line) + "\n" for line in lines).encode()
    if not data:
        return
    try:
        path = known_file()
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(handle, data)
        finally:
            os.close(handle)
    except (OSError, RuntimeError) as error:
        log.warning("what was indexed could not be recorded (%s); reading its photos needs --trust-roots", error)
