"""What is refused before anything is measured: a successor that contradicts its predecessor's simplex."""

from __future__ import annotations

from cir.types import ModelCard

# What the weights of a model were trained with.
PARTS = {
    "config_sha256": "another configuration",
    "vocabulary_sha256": "another vocabulary",
    "preprocess_sha256": "other preprocessing",
}


def incompatibilities(old: ModelCard, new: ModelCard) -> list[str]:
    """Why a model cannot succeed another, whatever a measurement would say; empty if nothing rules it out.

    Successive models share a simplex: the same vertices, the same class on each, new classes only after the old ones.
    How many free dims lie behind it is each model's own.
    A model without a simplex promises nothing, and is measured.
    """
    problems = []
    for part, name in PARTS.items() if new.weights_sha256 == old.weights_sha256 else ():
        ours, theirs = getattr(new, part), getattr(old, part)
        if ours != theirs:
            problems.append(
                f"{new.name} has the weights of {old.name} with {name} ({ours[:8]} instead of {theirs[:8]}), so it "
                "does not give the vectors it was trained to give"
            )
    if old.simplex is None or new.simplex is None:
        return problems
    if new.simplex.vertices_sha256 != old.simplex.vertices_sha256:
        ours, theirs = new.simplex.vertices_sha256[:8], old.simplex.vertices_sha256[:8]
        problems.append(f"its vertices ({ours}) are not those of {old.name} ({theirs})")
    elif not new.simplex.shares_vertices(old.simplex):
        problems.append(f"its simplex has other blocks or weights than that of {old.name}")
    for name, classes in old.classes.items():
        extended = list(new.classes.get(name, ()))
        if extended[: len(classes)] != list(classes):
            pairs = enumerate(zip(classes, extended, strict=False))
            place = next((i for i, (a, b) in pairs if a != b), len(extended))
            ours = repr(extended[place]) if place < len(extended) else "nothing"
            problems.append(
                f"its class map does not extend that of {old.name}: vertex {place} of {name} is {ours}, "
                f"not {classes[place]!r}"
            )
    return problems
