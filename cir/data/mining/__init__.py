"""Composed questions mined from photos with captions: two photos that captions tell apart by one change."""

from cir.data.mining.changes import KINDS, MinedChange, mine
from cir.data.mining.pairs import LOOSE, STRICT, Strictness
from cir.data.mining.wording import change_text, to_lines, to_queries

__all__ = ["KINDS", "LOOSE", "STRICT", "MinedChange", "Strictness", "change_text", "mine", "to_lines", "to_queries"]
