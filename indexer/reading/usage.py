"""Which images of older spaces are retrieved, so that a backfill encodes the most retrieved ones first.

One line of ids per query, appended until the file is large enough; a backfill that leaves no older images removes it.
It is only a hint: a reader without the right to write loses nothing else.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress

from cir.indexer.storage.folder import IndexFolder

_LARGEST = 16 * 1024 * 1024  # bytes; enough to know what is retrieved most


def log_usage(folder: IndexFolder, ids: Sequence[str]) -> None:
    """Append the ids that a query has retrieved; does nothing if the index cannot be written to."""
    line = ("\t".join(ids) + "\n").encode("utf-8", "surrogateescape")
    with suppress(OSError):
        handle = os.open(folder.usage, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            if os.fstat(handle).st_size < _LARGEST:
                os.write(handle, line)  # one call, so that lines of several readers do not mix
        finally:
            os.close(handle)


def read_usage(folder: IndexFolder) -> Counter[str]:
    """How often each image was retrieved."""
    try:
        text = folder.usage.read_bytes().decode("utf-8", "surrogateescape")
    except OSError:
        return Counter()
    whole = text[: text.rfind("\n") + 1]  # the last line may be half written
    return Counter(image_id for line in whole.splitlines() for image_id in line.split("\t") if image_id)
