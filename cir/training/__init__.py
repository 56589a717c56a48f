"""Training of the packaged models, and of SPRC by its official recipes."""
