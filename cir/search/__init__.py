"""Searching an index: references are resolved, queries encoded in every space of the index, and ranked."""

from cir.search.searcher import Searcher, open_index

__all__ = ["Searcher", "open_index"]
