"""Encoded queries are weighted, added and normalised space by space."""

from __future__ import annotations

import numpy as np
import pytest

from cir.arrays import Floats
from cir.errors import SpaceMismatchError
from cir.query_vectors import QueryVectors


def draw(seed: int, count: int = 3) -> QueryVectors:
    """Queries in a space of 4 dims and in one of 2."""
    rng = np.random.default_rng(seed)
    drawn: dict[str, Floats] = {
        space: rng.standard_normal((count, dims)).astype(np.float32) for space, dims in (("wide", 4), ("narrow", 2))
    }
    return QueryVectors(drawn)


A, B = draw(1), draw(2)


def test_length_is_the_number_of_queries() -> None:
    assert len(A) == 3
    assert len(draw(1, count=0)) == 0
    assert len(QueryVectors({})) == 0


def test_sums_and_weights_are_taken_in_each_space() -> None:
    total = 0.25 * A + B * 0.75
    assert list(total.by_space) == ["wide", "narrow"]
    for space, vectors in total.by_space.items():
        assert vectors.dtype == np.float32
        assert vectors == pytest.approx(0.25 * A.by_space[space] + 0.75 * B.by_space[space], abs=1e-6)


def test_queries_of_other_spaces_cannot_be_added() -> None:
    with pytest.raises(SpaceMismatchError, match="vectors of other spaces"):
        A + QueryVectors({"wide": B.by_space["wide"]})


def test_unit_norm_in_each_space_and_zeros_stay_zero() -> None:
    wide = A.by_space["wide"].copy()
    wide[1] = 0
    normalised = QueryVectors({**A.by_space, "wide": wide}).unit()
    assert np.linalg.norm(normalised.by_space["wide"], axis=1) == pytest.approx([1, 0, 1], abs=1e-6)
    assert np.linalg.norm(normalised.by_space["narrow"], axis=1) == pytest.approx([1, 1, 1], abs=1e-6)
    cosines = (normalised.by_space["narrow"] * A.by_space["narrow"]).sum(axis=1)
    assert cosines == pytest.approx(np.linalg.norm(A.by_space["narrow"], axis=1), abs=1e-6)


def test_rows_are_picked_in_the_order_given() -> None:
    for rows, expected in (([2, 0], [2, 0]), (slice(1, None), [1, 2]), ([], [])):
        picked = A[rows]
        assert len(picked) == len(expected)
        for space, vectors in picked.by_space.items():
            assert np.array_equal(vectors, A.by_space[space][expected])


def test_batches_are_joined_in_order() -> None:
    joined = QueryVectors.concatenate([A[:1], A[1:], B])
    assert len(joined) == 6
    for space, vectors in joined.by_space.items():
        assert np.array_equal(vectors, np.concatenate([A.by_space[space], B.by_space[space]]))


def test_a_query_is_nonzero_if_any_space_has_a_vector() -> None:
    wide, narrow = (A.by_space[space].copy() for space in ("wide", "narrow"))
    wide[:2] = 0
    narrow[1:] = 0
    assert QueryVectors({"wide": wide, "narrow": narrow}).nonzero.tolist() == [True, False, True]
    assert draw(1, count=0).nonzero.shape == (0,)
