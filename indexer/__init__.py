"""The gallery on disk: immutable segments, one manifest per generation, and a search over both."""
