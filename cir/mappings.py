"""Routes from a new model's queries to the stored vectors of an older space, and what each of them maps.

    trained head   the new model has a query head for the older space, trained with it
    fitted head    a query head fitted at the replacement on the new model's query states
    ridge          stored vectors are mapped into the new space by ridge regression
    gallery mlp    stored vectors are mapped into the new space by ridge regression and a hidden layer
    procrustes     query vectors are rotated into the older space
    query ridge    query vectors are mapped into the older space by ridge regression
    low rank       query vectors are mapped into the older space by reduced-rank regression
    query mlp      query vectors are mapped into the older space by ridge regression and a hidden layer
    simplex        query vectors with the free dims set to zero: both spaces share the simplex dims

A further route is a member of `Route`, which says what it maps, and a function that fits it in
`cir.replacement.routes`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, StrEnum, auto
from typing import assert_never

from cir.arrays import Floats, unit
from cir.evidence import Evidence

ARRAYS = ("matrix", "bias", "inner", "inner_bias", "outer")


class Maps(Enum):
    """What a mapping is applied to."""

    NOTHING = auto()  # the model has a head for the older space
    STATES = auto()  # query states: the matrix is a query head
    QUERIES = auto()  # query vectors of the model's own space
    GALLERY = auto()  # stored vectors, which are then searched in the model's own space


class Route(StrEnum):
    """How queries of a new model reach the stored vectors of an older space."""

    TRAINED_HEAD = "trained head"
    FITTED_HEAD = "fitted head"
    RIDGE = "ridge"
    GALLERY_MLP = "gallery mlp"
    PROCRUSTES = "procrustes"
    QUERY_RIDGE = "query ridge"
    LOW_RANK = "low rank"
    QUERY_MLP = "query mlp"
    SIMPLEX = "simplex"

    @property
    def maps(self) -> Maps:
        """What its matrix is applied to."""
        match self:
            case Route.TRAINED_HEAD:
                return Maps.NOTHING
            case Route.FITTED_HEAD:
                return Maps.STATES
            case Route.RIDGE | Route.GALLERY_MLP:
                return Maps.GALLERY
            case Route.PROCRUSTES | Route.QUERY_RIDGE | Route.LOW_RANK | Route.QUERY_MLP | Route.SIMPLEX:
                return Maps.QUERIES
            case _:  # a route that does not say must not pass for a head
                assert_never(self)

    @property
    def compares_dims(self) -> bool:
        """Whether it compares dims of two models as they are, because both were trained against one simplex."""
        return self is Route.SIMPLEX


@dataclass(frozen=True)
class SpaceMapping:
    """A measured mapping from the queries of one model to the stored vectors of another space.

    Attributes:
        model: digest of the model that encodes the queries.
        space: id of the space of the stored vectors.
        route: what is mapped, and by what.
        matrix: (D_to, D_from) float32: to = unit(matrix @ from + bias). None for a trained head.
        bias: (D_to,) float32, or None.
        slope, intercept: slope * score + intercept puts a score in the older space on the scale of the model's own.
        inner, inner_bias, outer: (H, D_from), (H,) and (D_to, H) float32 of a hidden layer, which adds
            outer @ relu(inner @ from + inner_bias) before the norm; None without one.
        evidence: what was measured, and the verdict; None only for mappings made by hand in tests.
    """

    model: str
    space: str
    route: Route
    matrix: Floats | None = None
    bias: Floats | None = None
    slope: float = 1.0
    intercept: float = 0.0
    inner: Floats | None = None
    inner_bias: Floats | None = None
    outer: Floats | None = None
    evidence: Evidence | None = None

    @property
    def arrays(self) -> dict[str, Floats]:
        """Those of its arrays that there are, by name."""
        named = {name: getattr(self, name) for name in ARRAYS}
        return {name: values for name, values in named.items() if values is not None}

    @property
    def maps(self) -> Maps:
        """What it is applied to."""
        return self.route.maps

    def query_space(self, native: str) -> str:
        """Id of the space in which a query for these stored vectors is encoded; `native` is the model's own."""
        return native if self.maps is Maps.GALLERY else self.space

    def map(self, values: Floats) -> Floats:
        """(N, D_from) vectors or states -> (N, D_to) float32, unit-norm. Raises ValueError for a trained head."""
        if self.matrix is None:
            raise ValueError(f"route {self.route} maps no vectors")
        values = values.astype("float32")
        mapped = values @ self.matrix.T
        if self.bias is not None:
            mapped += self.bias
        if self.inner is not None and self.inner_bias is not None and self.outer is not None:
            hidden = values @ self.inner.T + self.inner_bias
            mapped += hidden.clip(min=0) @ self.outer.T
        return unit(mapped)

    def calibrate(self, scores: Floats) -> Floats:
        """Scores in the older space -> the scale of the model's own scores."""
        calibrated: Floats = scores * self.slope + self.intercept
        return calibrated
