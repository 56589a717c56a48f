"""Composed questions mined from photos with captions: two photos that captions tell apart by one change."""

from cir.data.mining.changes import LOOSE, STRICT, MinedChange, Strictness, mine
from cir.data.mining.wording import change_text, to_queries

__all__ = ["LOOSE", "STRICT", "MinedChange", "Strictness", "change_text", "mine", "to_queries"]
