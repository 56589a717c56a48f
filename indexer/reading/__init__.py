"""A read-only snapshot of an index, and the search over it."""
