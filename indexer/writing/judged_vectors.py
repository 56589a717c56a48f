"""The judged queries that an index keeps, as vectors: real queries, on which approximate indexes are measured too."""

from __future__ import annotations

import logging

import numpy as np

from cir.arrays import Floats
from cir.errors import CirError, ImageDecodeError
from cir.images import decode
from cir.indexer.storage.folder import IndexFolder
from cir.indexer.storage.questions import read_photo, read_questions
from cir.threads import map_batches
from cir.types import GalleryEncoder, QueryEncoder

_MOST = 200
_BATCH = 16

log = logging.getLogger(__name__)


def judged_vectors(folder: IndexFolder, encoder: GalleryEncoder | None) -> Floats | None:
    """(Q, D) float32, unit-norm: judged queries whose references an index keeps, encoded by the serving model.

    None without such queries, or if the model encodes none. At most 200. A query whose photo is unreadable is left out.
    """
    if not isinstance(encoder, QueryEncoder):
        return None
    try:
        stored = read_questions(folder)
        asked = [query for query in stored.queries if query.reference in stored.digests and query.caption]
        chosen = asked[:: max(1, len(asked) // _MOST)][:_MOST]
        photos = [read_photo(folder, bytes.fromhex(stored.digests[query.reference])) for query in chosen]
        pairs = [(photo, query.caption) for photo, query in zip(photos, chosen, strict=True) if photo is not None]

        def encode(rows: slice) -> Floats | None:
            pixels, captions = [], []
            for photo, caption in pairs[rows]:
                try:
                    picture = decode(photo, "a photo of the judged queries", encoder.min_side)
                except ImageDecodeError as error:
                    log.warning("a judged query of %s was not measured: %s", folder, error)
                else:
                    pixels.append(encoder.preprocess(picture))
                    captions.append(caption)
            return encoder.encode_queries(np.stack(pixels), captions) if pixels else None

        batches = map_batches(encode, len(pairs), _BATCH, encoder.shared_by)
        vectors = [batch for batch in batches if batch is not None]
        return np.concatenate(vectors) if vectors else None
    except CirError as error:  # a damaged file; the curve is measured without
        log.warning("the judged queries of %s were not measured: %s", folder, error)
        return None
