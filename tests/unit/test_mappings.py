"""What each route maps, where its queries are encoded, and what its scores become."""

from __future__ import annotations

import numpy as np
import pytest

from cir.mappings import Maps, Route, SpaceMapping
from cir.replacement.routes import FIT_BY_ROUTE

MATRIX = np.random.default_rng(0).standard_normal((3, 5)).astype(np.float32)
BIAS = np.array([1, -2, 0.5], np.float32)


def mapping(route: Route) -> SpaceMapping:
    if route is Route.TRAINED_HEAD:
        return SpaceMapping("new", "older", route, slope=2.0, intercept=-0.5)
    return SpaceMapping("new", "older", route, MATRIX, BIAS if route in (Route.RIDGE, Route.FITTED_HEAD) else None)


MAPPED = {
    Route.TRAINED_HEAD: Maps.NOTHING,
    Route.FITTED_HEAD: Maps.STATES,
    Route.RIDGE: Maps.GALLERY,
    Route.GALLERY_MLP: Maps.GALLERY,
    Route.PROCRUSTES: Maps.QUERIES,
    Route.QUERY_RIDGE: Maps.QUERIES,
    Route.LOW_RANK: Maps.QUERIES,
    Route.QUERY_MLP: Maps.QUERIES,
    Route.SIMPLEX: Maps.QUERIES,
}


@pytest.mark.parametrize("route", Route)
def test_what_a_route_maps(route: Route) -> None:
    made = mapping(route)
    assert made.maps is MAPPED[route]
    assert made.query_space("own") == ("own" if made.maps is Maps.GALLERY else "older")


def test_only_the_simplex_compares_dims_of_two_models() -> None:
    assert [route for route in Route if route.compares_dims] == [Route.SIMPLEX]


def test_every_route_can_be_fitted() -> None:
    assert list(FIT_BY_ROUTE) == list(Route)
    assert [route.value for route in Route] == [
        *("trained head", "fitted head", "ridge", "gallery mlp", "procrustes"),
        *("query ridge", "low rank", "query mlp", "simplex"),
    ]


@pytest.mark.parametrize("route", [Route.RIDGE, Route.PROCRUSTES])
def test_mapped_vectors_are_unit_norm(route: Route) -> None:
    made = mapping(route)
    for dtype in (np.float16, np.float32):
        values = np.random.default_rng(1).standard_normal((4, 5)).astype(dtype)
        expected = values.astype(np.float64) @ MATRIX.T + (BIAS if made.bias is not None else 0)
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
        mapped = made.map(values)  # type: ignore[arg-type]  # stored vectors are float16
        assert mapped.dtype == np.float32
        assert mapped == pytest.approx(expected, abs=1e-5)


def test_a_hidden_layer_adds_to_the_matrix() -> None:
    rng = np.random.default_rng(2)
    inner, inner_bias, outer = (rng.standard_normal(shape).astype(np.float32) for shape in ((7, 5), (7,), (3, 7)))
    made = SpaceMapping(
        "new", "older", Route.GALLERY_MLP, MATRIX, BIAS, inner=inner, inner_bias=inner_bias, outer=outer
    )
    for dtype in (np.float16, np.float32):
        values = rng.standard_normal((4, 5)).astype(dtype)
        expected = np.zeros((4, 3))
        for row, value in enumerate(values.astype(np.float64)):
            hidden = [max(0.0, float(inner[unit] @ value + inner_bias[unit])) for unit in range(7)]
            expected[row] = MATRIX @ value + BIAS + outer @ np.array(hidden)
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
        assert made.map(values) == pytest.approx(expected, abs=1e-5)  # type: ignore[arg-type]
    assert list(made.arrays) == ["matrix", "bias", "inner", "inner_bias", "outer"]
    assert list(mapping(Route.PROCRUSTES).arrays) == ["matrix"]


def test_a_trained_head_maps_no_vectors() -> None:
    with pytest.raises(ValueError, match="route trained head maps no vectors"):
        mapping(Route.TRAINED_HEAD).map(np.ones((1, 5), np.float32))


def test_scores_are_put_on_the_scale_of_the_model() -> None:
    scores = np.array([0.0, 0.5, 1.0], np.float32)
    assert mapping(Route.TRAINED_HEAD).calibrate(scores).tolist() == [-0.5, 0.5, 1.5]
    assert mapping(Route.RIDGE).calibrate(scores).tolist() == scores.tolist()
