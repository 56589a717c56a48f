"""Simplex, HOC and the compatibility figures against the official code's numbers (iamcl2r, CVPR 2024)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from cir.models.stationary import digest, simplex
from cir.stats import average_accuracy, average_compatibility, compatibility_margins
from cir.training.losses import hoc

FILE = Path(__file__).parent / "data" / "stationary" / "oracle.npz"
KNOWN = dict(np.load(FILE))
TOLERANCE = 1e-6


@pytest.mark.parametrize("classes", [2, 3, 9, 33, 257])
def test_vertices_are_the_official_ones(classes: int) -> None:
    made = simplex(classes)
    assert made.dtype == torch.float32
    assert np.abs(made.numpy() - KNOWN[f"simplex_{classes}"]).max() < TOLERANCE


@pytest.mark.parametrize("classes", [2, 5, 142, 1024])
def test_vertices_are_a_simplex(classes: int) -> None:
    made = simplex(classes).double()
    products = made @ made.T
    assert (products.diagonal() - 1).abs().max() < 1e-6
    others = products[~torch.eye(classes, dtype=torch.bool)]
    assert (others + 1 / (classes - 1)).abs().max() < 1e-6
    assert made.sum(dim=0).abs().max() < 1e-4
    frame = made.T @ made  # a tight frame
    assert (frame - classes / (classes - 1) * torch.eye(classes - 1)).abs().max() < 1e-4


def test_a_digest_names_the_vertices() -> None:
    assert digest(simplex(33)) == digest(simplex(33).clone())
    # Written down so that another construction, or another machine, is noticed.
    assert digest(simplex(33)).startswith(SIMPLEX_33)
    assert len({digest(simplex(classes)) for classes in range(2, 12)}) == 10
    with pytest.raises(ValueError, match="at least 2 vertices, not 1"):
        simplex(1)


SIMPLEX_33 = "263402d0329f5c43"


@pytest.mark.parametrize("case", range(4))
def test_hoc_and_its_gradient_are_the_official_ones(case: int) -> None:
    old = torch.from_numpy(KNOWN[f"hoc{case}_old"]).requires_grad_()
    new = torch.from_numpy(KNOWN[f"hoc{case}_new"]).requires_grad_()
    loss = hoc(old, new, torch.from_numpy(KNOWN[f"hoc{case}_labels"]), mu=10.0)
    loss.backward()
    assert loss.item() == pytest.approx(float(KNOWN[f"hoc{case}_loss"]), abs=TOLERANCE * 10)
    assert new.grad is not None
    assert np.abs(new.grad.numpy() - KNOWN[f"hoc{case}_grad_new"]).max() < 1e-5
    assert old.grad is None  # the stored side never moves


def test_hoc_without_labels_masks_the_positives_own_slot_alone() -> None:
    old, new = (torch.nn.functional.normalize(torch.randn(6, 8), dim=1) for _ in range(2))
    assert hoc(old, new) == hoc(old, new, torch.arange(6))
    assert hoc(old, new) != hoc(old, new, torch.tensor([0, 0, 1, 1, 2, 2]))
    with pytest.raises(ValueError, match="not two"):
        hoc(old, new[:5])


@pytest.mark.parametrize("case", range(4))
def test_compatibility_is_the_official_one(case: int) -> None:
    matrix = KNOWN[f"compat{case}"]
    assert average_compatibility(matrix) == pytest.approx(float(KNOWN[f"compat{case}_ac"]), abs=TOLERANCE)
    lower = matrix[np.tril_indices(len(matrix))]
    # The official figure leaves exact zeros out and is in percent; ours counts them.
    official = float(KNOWN[f"compat{case}_aa"]) / 100
    assert average_accuracy(matrix) == pytest.approx(official * np.count_nonzero(lower) / len(lower), abs=TOLERANCE)


def test_compatibility_is_strict_and_says_by_how_much() -> None:
    assert average_compatibility([[0.5, 0.9], [0.5, 0.7]]) == 0.0  # a tie is no gain
    assert average_compatibility([[1.0, 0.0], [1.0, 1.0]]) == 0.0
    matrix = [[0.3, 0.0, 0.0], [0.4, 0.5, 0.0], [0.2, 0.6, 0.7]]
    assert average_compatibility(matrix) == pytest.approx(2 / 3)
    assert compatibility_margins(matrix).round(6).tolist() == [[0, 0, 0], [0.1, 0, 0], [-0.1, 0.1, 0]]
    assert average_accuracy([[0.0, 5.0], [0.0, 1.0]]) == pytest.approx(1 / 3)
    assert average_accuracy([[0.25]]) == 0.25
    for wrong in ([[0.1, 0.2]], [], [[float("nan")]], [[0.1, 0.0], [float("inf"), 0.2]]):
        with pytest.raises(ValueError, match="a compatibility matrix"):
            average_accuracy(wrong)
    with pytest.raises(ValueError, match="at least two models"):
        average_compatibility([[0.5]])


def test_what_is_committed_is_the_oracle(shared: Path) -> None:
    original = np.load(shared / "oracles" / "stationary" / "oracle.npz")
    assert set(original.files) == set(KNOWN)
    assert all(np.array_equal(original[name], KNOWN[name]) for name in KNOWN)
