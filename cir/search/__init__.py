"""Searching an index: references are resolved, queries encoded in every space of the index, and ranked."""

from cir.search.opening import open_index
from cir.search.searcher import Searcher

__all__ = ["Searcher", "open_index"]
