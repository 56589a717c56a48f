"""`cir serve --judge-pool MODEL`: what is to be judged before marks may decide about a new model.

The pools are computed once, beside the serving: a sample is encoded by the new model, which takes minutes.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any, Literal

from cir.errors import CirError
from cir.replacement.collect import SampleCollector
from cir.replacement.marked import marked
from cir.replacement.pool import Pool, pools
from cir.replacement.study import StudyOptions, older_spaces
from cir.search.searcher import Searcher
from cir.serve.answers import Describer
from cir.serve.marks import Marks, Subject
from cir.types import Encoder

log = logging.getLogger(__name__)

SHOWN = 20  # pools of one answer


class Pools(threading.Thread):
    """The pools of a new model.

    Args:
        searcher: the index as it was opened; a searcher of its own, whose encoders run beside the server's.
        load: gives the new model.
        name: of the new model.
    """

    def __init__(self, searcher: Searcher, load: Callable[[], Encoder], name: str) -> None:
        super().__init__(name="cir-pools", daemon=True)
        self._searcher, self._load, self._name = searcher, load, name
        self.state: Literal["computing", "ready", "failed"] = "computing"
        self.detail = ""
        self.models: tuple[str, ...] = ()  # digests of both models
        self._found: Sequence[Pool] = ()

    def run(self) -> None:
        """Compute the pools."""
        try:
            gallery, encoder, options = self._searcher.gallery, self._load(), StudyOptions()
            self._name, self.models = encoder.card.name, (gallery.card.digest, encoder.card.digest)
            collector = SampleCollector(self._searcher, encoder, options.sample)
            spaces = older_spaces(gallery, encoder.card)
            self._found = pools(collector, spaces, marked(gallery).queries, options.seed)
            self.state = "ready"
        except CirError as error:
            self.state, self.detail = "failed", str(error)
            log.warning("%s", error)
        except Exception:
            self.state, self.detail = "failed", "this is a bug in cir; the server's log has its traceback"
            log.exception("the pools cannot be computed")

    def left(self, describer: Describer, marks: Marks) -> dict[str, Any]:
        """What is left to judge now."""
        gallery = describer.gallery
        waiting = []
        for pool in self._found:
            query = pool.query
            if query.reference and query.reference not in gallery:
                continue
            judged = set().union(*marks.judged(gallery, Subject(query.reference, query.caption)))
            images = [name for name in pool.unjudged if name in gallery and name not in judged]
            if images:
                waiting.append((query, images))
        shown = [
            {
                "references": [query.reference] if query.reference else [],
                "text": query.caption,
                "images": describer.images(images),
            }
            for query, images in waiting[:SHOWN]
        ]
        return {
            "state": self.state,
            "detail": self.detail,
            "model": self._name,
            "left": sum(len(images) for _, images in waiting),
            "pools": shown,
        }
