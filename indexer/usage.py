"""Which old images are retrieved, so that those that matter most are encoded again first.

Noted while an index holds vectors of older models: one line of ids a query, appended, until there are enough of them;
a backfill that leaves none removes the file. It is a hint and nothing more: a reader that may not write loses nothing.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

USAGE = "retrieved.log"
_LARGEST = 16 * 1024 * 1024  # bytes; what was retrieved before that is known well enough


def record(index: Path, ids: Sequence[str]) -> None:
    """Note that these images were retrieved; silently nothing where that is not possible."""
    line = ("\t".join(ids) + "\n").encode("utf-8", "surrogateescape")
    with suppress(OSError):
        handle = os.open(index / USAGE, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            if os.fstat(handle).st_size < _LARGEST:
                os.write(handle, line)  # one call, so that lines of several readers do not mix
        finally:
            os.close(handle)


def retrieved(index: Path) -> Counter[str]:
    """How often each image was retrieved."""
    try:
        text = (index / USAGE).read_bytes().decode("utf-8", "surrogateescape")
    except OSError:
        return Counter()
    whole = text[: text.rfind("\n") + 1]  # the last line may be half written
    return Counter(image_id for line in whole.splitlines() for image_id in line.split("\t") if image_id)
