"""Every kind of hub encoder from a gallery to a replacement, on small random models: offline, by the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from cir.testing import hub_models
from cir.testing.commands import Run

SAVE: dict[str, Callable[[Path], Path]] = {
    "clip": hub_models.save_clip,
    "siglip": hub_models.save_siglip,
    "siglip2": hub_models.save_siglip2,
    "qwen3_vl": hub_models.save_qwen3_vl,
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", SAVE)
def test_build_query_evaluate_and_replace(
    kind: str, cli: Run, coloured: Path, questions_for: Callable[..., Path], tmp_path: Path
) -> None:
    model = SAVE[kind](tmp_path / kind)
    index = tmp_path / "x.index"
    assert cli("build-index", coloured, "-o", index, "--model", model).code == 0
    for words in (["-t", "in red"], ["-i", "003.png"], ["-i", "003.png", "-t", "in red"]):
        assert len(cli("query", index, *words, "--json").json["hits"]) == 10
    questions = questions_for(model, 60)
    report = cli("evaluate", "jsonl", "--data-root", coloured, "--queries", questions, "--index", index, "--json").json
    assert report["metrics"]["R@1"]["value"] > 0.9  # each target is the model's own first hit
    apart = {"slerp", "product"} if kind != "qwen3_vl" else set()
    assert {"image", "text", "sum"} | apart == set(report["baselines"])
    successor = hub_models.save_clip(tmp_path / "successor", seed=5)
    study = cli("replace-model", index, successor, "--json").json
    (space,) = study["spaces"]
    assert {"ridge", "procrustes", "query mlp"} <= set(space["fidelity"])
    before = json.loads(cli("info", index, "--json").out)["generation"]
    applied = cli("replace-model", index, successor, "--apply", "--trust-model", "--json")
    assert (applied.code == 0) == applied.json["passed"]
    if applied.json["passed"]:
        assert cli("query", index, "-i", "003.png", "-t", "in red", "--json").json["hits"]
        assert cli("rollback", index, "--to", before).code == 0
    assert cli("verify", index).code == 0
