"""A converted official checkpoint against the official code's own numbers, through the public API.

`tests/golden/data/sprc-tiny` is `oracles/sprc-tiny` trimmed by `trim_sprc_tiny.py`. The mistakes at the end are typical
of a rewrite of SPRC; these tests must detect each of them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import cir
from cir.models import naming, sprc
from cir.models.checkpoints import open_checkpoint
from cir.models.sprc import Sprc
from cir.text import Tokenizer, clean_caption, read_vocabulary

DATA = Path(__file__).parent / "data" / "sprc-tiny"
TOLERANCE = 1e-4
RELATIVE = 1e-3
WEIGHTS = {"itc": 1.0, "rtc": 0.4, "align": 0.4}  # of the official CIRR recipe, for which gradients are recorded
GRADIENTS = ("temp", "prompt_tokens", "query_tokens", "ln_vision.weight", "text_proj.weight", "vision_proj.weight")


class Oracle:
    """Results of the official code: `known` arrays, `record` from oracle.json, and the input pictures."""

    def __init__(self) -> None:
        self.known = {key: torch.from_numpy(value) for key, value in np.load(DATA / "arrays.npz").items()}
        self.record: dict[str, Any] = json.loads((DATA / "oracle.json").read_text())
        self.captions: list[str] = self.record["captions_raw"]
        generator = torch.Generator().manual_seed(2)
        self.reference, self.target, self.gallery = (
            torch.randn(count, 3, 224, 224, generator=generator) for count in (6, 6, 9)
        )
        for name in ("reference", "target", "gallery"):
            drawn: Tensor = getattr(self, name)[:, :, 0, 0]
            assert torch.allclose(drawn, self.known[name], atol=1e-5), "this torch draws other pictures from the seed"

    def close(self, ours: Tensor, name: str) -> None:
        """Fail unless `ours` equals the official code's result."""
        assert ours.shape == self.known[name].shape
        assert (ours - self.known[name]).abs().max() < TOLERANCE, name


@pytest.fixture(scope="module")
def oracle() -> Oracle:
    return Oracle()


@pytest.fixture
def model(sprc_model: Path) -> Sprc:
    """Loaded anew for every test, because some change it."""
    return cir.load_model(sprc_model, device="cpu").sprc


def check_search(model: Sprc, oracle: Oracle) -> None:
    """Gallery tokens, query vectors and similarities."""
    with torch.inference_mode():
        gallery = model.gallery_tokens(oracle.gallery)
        query = model.query_vectors(oracle.reference, oracle.captions)
        oracle.close(gallery, "gallery_feats")
        oracle.close(query, "query_feat")
        oracle.close(sprc.scores(query, gallery), "sim")


def check_losses(model: Sprc, oracle: Oracle) -> dict[str, Tensor]:
    """The three losses, which are also returned."""
    losses = model.losses(oracle.reference, oracle.target, oracle.captions)
    for name, value in losses.items():
        assert value.item() == pytest.approx(oracle.known[f"loss_{name}"].item(), abs=TOLERANCE), name
    return losses


def test_search(model: Sprc, oracle: Oracle) -> None:
    check_search(model, oracle)


def test_search_with_captions_padded_as_the_official_code_does(model: Sprc, oracle: Oracle, sprc_model: Path) -> None:
    model.tokenizer = Tokenizer(read_vocabulary(sprc_model / "vocab.txt"), pad_to_longest=False)
    check_search(model, oracle)


def test_pass_a(model: Sprc, oracle: Oracle) -> None:
    with torch.inference_mode():
        ids, mask = oracle.known["input_ids"], oracle.known["attention_mask"]
        prompt = model.sentence_prompt(model.image_features(oracle.reference), ids, mask)
    assert (prompt - oracle.known["fusion_hidden"][:, : prompt.shape[1]]).abs().max() < TOLERANCE


def test_the_encoder_gives_the_vectors_of_the_module(sprc_model: Path, oracle: Oracle) -> None:
    encoder = cir.load_model(sprc_model, device="cpu")
    encoded = encoder.encode_images(oracle.gallery.numpy())
    assert encoded.vectors is None
    assert encoded.tokens is not None
    oracle.close(torch.from_numpy(encoded.tokens), "gallery_feats")
    oracle.close(torch.from_numpy(encoder.encode_queries(oracle.reference.numpy(), oracle.captions)), "query_feat")


def test_captions_and_token_ids(oracle: Oracle, sprc_model: Path) -> None:
    assert [clean_caption(caption) for caption in oracle.captions] == oracle.record["captions_processed"]
    ids, mask = Tokenizer(read_vocabulary(sprc_model / "vocab.txt"), pad_to_longest=False)(oracle.captions, 32)
    assert np.array_equal(ids, oracle.known["input_ids"].numpy())
    assert np.array_equal(mask, oracle.known["attention_mask"].numpy())


def test_a_caption_needs_a_tokenizer(model: Sprc) -> None:
    model.tokenizer = None
    with pytest.raises(ValueError, match="without a tokenizer"):
        model.tokenize(["in red"])


def test_losses_and_gradients(model: Sprc, oracle: Oracle, sprc_checkpoint: Path) -> None:
    losses = check_losses(model, oracle)
    torch.stack([WEIGHTS[name] * value for name, value in losses.items()]).sum().backward()
    ours = dict(model.named_parameters())
    for name in GRADIENTS:
        theirs = oracle.known[f"grad_{name}"]
        gradient = ours[name].grad
        assert gradient is not None
        assert (gradient - theirs).norm() < RELATIVE * theirs.norm(), name
    # For every other trained tensor the length of its gradient is recorded.
    checkpoint = open_checkpoint(sprc_checkpoint)
    names = naming.Names(checkpoint, checkpoint.tensors)
    lengths = oracle.record["grad_norm_cirr_weights"]
    trained = [name for name in ours if not name.startswith("vision.")]
    assert len(trained) == sum(length is not None for length in lengths.values())
    for name in trained:
        gradient = ours[name].grad
        assert gradient is not None
        assert gradient.norm().item() == pytest.approx(lengths[names(name)], rel=RELATIVE, abs=1e-6), name
    assert all(parameter.grad is None for name, parameter in ours.items() if name.startswith("vision."))


def test_three_steps_of_training(model: Sprc, oracle: Oracle) -> None:
    trained = [parameter for name, parameter in model.named_parameters() if not name.startswith("vision.")]
    optimiser = torch.optim.AdamW(trained, lr=1e-4, betas=(0.9, 0.98), eps=1e-7, weight_decay=0.05)
    for recorded in oracle.record["adamw_3steps_fiq_weights_lr1e-4"]:
        losses = model.losses(oracle.reference, oracle.target, oracle.captions)
        for name, value in losses.items():
            assert value.item() == pytest.approx(recorded[f"loss_{name}"], rel=RELATIVE), name
        optimiser.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        optimiser.step()


# Planted mistakes.


def query_feed_forward_in_pass_b(monkeypatch: pytest.MonkeyPatch, model: Sprc) -> None:
    tokens = model.config.query_tokens

    def mistaken(layer: Any) -> Callable[[Tensor], Tensor]:
        text, query = layer.feed_forward_chunk, layer.feed_forward_chunk_query

        def chunk(states: Tensor) -> Tensor:
            if states.shape[1] <= tokens:  # the caption's share of pass A
                return text(states)
            return torch.cat([query(states[:, :tokens]), text(states[:, tokens:])], dim=1)

        return chunk

    for layer in model.qformer.encoder.layer:
        monkeypatch.setattr(layer, "feed_forward_chunk", mistaken(layer))


def vector_at_position_0(monkeypatch: pytest.MonkeyPatch, model: Sprc) -> None:
    def mistaken(self: Sprc, prompt: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        whole = torch.cat([mask.new_ones(len(mask), self.config.query_tokens), mask], dim=1)
        out = self._qformer(self.embeddings(input_ids=ids, query_embeds=prompt), whole)
        return out[:, 0]

    monkeypatch.setattr(Sprc, "sentence_state", mistaken)


def no_second_pass(monkeypatch: pytest.MonkeyPatch, model: Sprc) -> None:
    def mistaken(self: Sprc, pixels: Tensor, captions: Sequence[str]) -> Tensor:
        ids, mask = self.tokenize(captions)
        whole = torch.cat([mask.new_ones(len(mask), self.config.query_tokens), mask], dim=1)
        queries = self.query_tokens.expand(len(ids), -1, -1)
        embedded = self.embeddings(input_ids=ids, query_embeds=queries)
        out = self._qformer(embedded, whole, features=self.image_features(pixels))
        return F.normalize(self.text_proj(out[:, self.config.query_tokens]), dim=-1)

    monkeypatch.setattr(Sprc, "query_vectors", mistaken)


def mean_for_maximum(monkeypatch: pytest.MonkeyPatch, model: Sprc) -> None:
    monkeypatch.setattr(
        sprc, "scores", lambda queries, tokens: torch.einsum("bd,ntd->bnt", queries, tokens).mean(dim=-1)
    )


def no_positions_on_prompts(monkeypatch: pytest.MonkeyPatch, model: Sprc) -> None:
    def mistaken(self: Sprc, ids: Tensor, mask: Tensor) -> Tensor:
        words = self.embeddings(input_ids=ids)  # positions on the caption alone
        prompts = self.prompt_tokens.expand(len(ids), -1, -1)
        mixed = torch.cat([words[:, :1], prompts, words[:, 1:]], dim=1)
        whole = torch.cat([mask.new_ones(len(mask), self.config.query_tokens), mask], dim=1)
        return F.normalize(self.text_proj(self._qformer(mixed, whole)[:, 0]), dim=-1)

    monkeypatch.setattr(Sprc, "prompted_text_vector", mistaken)


@pytest.mark.parametrize(
    ("mistake", "check"),
    [
        (query_feed_forward_in_pass_b, check_search),
        (vector_at_position_0, check_search),
        (no_second_pass, check_search),
        (mean_for_maximum, check_search),
        (mean_for_maximum, check_losses),
        (no_positions_on_prompts, check_losses),
    ],
)
def test_a_mistake_is_detected(
    mistake: Callable[[pytest.MonkeyPatch, Sprc], None],
    check: Callable[[Sprc, Oracle], object],
    model: Sprc,
    oracle: Oracle,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mistake(monkeypatch, model)
    with pytest.raises(AssertionError):
        check(model, oracle)


def test_what_is_committed_is_the_oracle(shared: Path, sprc_checkpoint: Path, oracle: Oracle) -> None:
    folder = shared / "oracles" / "sprc-tiny"
    key = "Blip2QformerCirAlignPrompt"
    ours = torch.load(sprc_checkpoint, weights_only=True)[key]
    theirs = torch.load(folder / "model.pt", weights_only=True)[key]
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        same = (ours[name] == value).flatten(1) if value.ndim > 1 else ours[name] == value
        kept = ours[name].flatten(1).any(dim=1) if name.endswith(("word_embeddings.weight", "decoder.weight")) else ...
        assert same[kept].all(), name
    arrays = np.load(folder / "oracle.npz")
    for name in ("reference", "target", "gallery"):
        assert np.array_equal(arrays[name], getattr(oracle, name).numpy())
    assert json.loads((folder / "oracle.json").read_text()) == oracle.record
