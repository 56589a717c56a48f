"""File formats of an index folder: manifests, segments, mappings, judged questions, and the writer's lock."""
