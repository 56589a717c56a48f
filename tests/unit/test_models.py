"""Model directories: what is written is what is loaded, and an error names what does not fit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from cir import devices, load_model, models
from cir.errors import UsageError, WeightsError
from cir.files import sha256_file
from cir.models import folder, weights
from cir.models.config import VIT_G_CONFIG
from cir.models.efficientnet import EfficientNetLite0
from cir.models.encoder import SprcEncoder
from cir.models.sprc import Sprc, scores
from cir.training import losses

Maker = Callable[..., Path]


@pytest.fixture(scope="module")
def encoder(tiny_model: Path) -> SprcEncoder:
    return load_model(tiny_model, device="cpu")


def pixels(encoder: SprcEncoder, count: int, seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    return np.stack([encoder.preprocess(Image.fromarray(value)) for value in values])


def test_outputs_are_unit_norm_and_of_the_card_s_sizes(encoder: SprcEncoder) -> None:
    batch = pixels(encoder, 3)
    encoded = encoder.encode_images(batch)
    assert encoded.vectors is not None
    assert encoded.tokens is not None
    queries = encoder.encode_queries(batch, ["in red", "with long sleeves", ""])
    texts = encoder.encode_texts(["in red"])
    assert encoded.vectors.shape == (3, encoder.card.dims)
    assert encoded.tokens.shape == (3, encoder.card.tokens, encoder.card.dims)
    for values in (encoded.vectors, encoded.tokens, queries, texts):
        assert values.dtype == np.float32
        assert np.linalg.norm(values, axis=-1) == pytest.approx(1, abs=1e-5)


def test_a_batch_changes_nothing(encoder: SprcEncoder) -> None:
    batch, captions = pixels(encoder, 4), ["in red", "blue", "with long long long sleeves", "x"]
    together = encoder.encode_queries(batch, captions)
    alone = np.concatenate([encoder.encode_queries(batch[i : i + 1], captions[i : i + 1]) for i in range(4)])
    assert np.abs(together - alone).max() < 1e-5
    images = encoder.encode_images(batch).vectors
    one = encoder.encode_images(batch[2:3]).vectors
    assert images is not None
    assert one is not None
    assert np.abs(images[2] - one[0]).max() < 1e-5


def test_reference_and_caption_both_matter(encoder: SprcEncoder) -> None:
    batch = pixels(encoder, 2)
    base = encoder.encode_queries(batch[:1], ["in red"])
    assert np.abs(base - encoder.encode_queries(batch[1:], ["in red"])).max() > 1e-3
    assert np.abs(base - encoder.encode_queries(batch[:1], ["with long sleeves"])).max() > 1e-3


def test_the_same_seed_is_the_same_model_and_another_is_another(
    tiny_model: Path, tmp_path: Path, make_model: Maker
) -> None:
    same = make_model(tmp_path / "tiny-1", seed=0)
    other = make_model(tmp_path / "tiny-2", seed=1)
    assert folder.read_card(same).digest == folder.read_card(tiny_model).digest
    assert folder.read_card(same).space.id == folder.read_card(tiny_model).space.id
    assert folder.read_card(other).space.id != folder.read_card(tiny_model).space.id


def test_int8_words_are_close(tiny_model: Path) -> None:
    stored = load_file(tiny_model / weights.WEIGHTS)
    assert stored[weights.WORDS].dtype == torch.int8
    model, _, _ = weights.load(tiny_model)
    words = model.state_dict()[weights.WORDS]
    assert words.dtype == torch.float32
    step = words.abs().amax(dim=1, keepdim=True) / 127
    assert ((words / step).round() - words / step).abs().max() < 0.1


def drop_key(directory: Path) -> None:
    tensors = load_file(directory / weights.WEIGHTS)
    tensors.pop("query_tokens")
    save_file(tensors, directory / weights.WEIGHTS)


def reshape_key(directory: Path) -> None:
    tensors = load_file(directory / weights.WEIGHTS)
    tensors["query_tokens"] = tensors["query_tokens"][:, :2].contiguous()
    save_file(tensors, directory / weights.WEIGHTS)


def add_key(directory: Path) -> None:
    tensors = load_file(directory / weights.WEIGHTS)
    save_file({**tensors, "surprise": torch.zeros(1)}, directory / weights.WEIGHTS)


def other_weights(directory: Path) -> None:
    tensors = load_file(directory / weights.WEIGHTS)
    save_file({**tensors, "temp": tensors["temp"] * 2}, directory / weights.WEIGHTS)


def truncate(directory: Path) -> None:
    path = directory / weights.WEIGHTS
    path.write_bytes(path.read_bytes()[:5000])


def change_card(key: str, value: object) -> Callable[[Path], None]:
    def change(directory: Path) -> None:
        content = json.loads((directory / weights.CARD).read_text())
        content[key] = value
        (directory / weights.CARD).write_text(json.dumps(content))

    return change


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (drop_key, "missing: query_tokens"),
        (reshape_key, r"misshapen: query_tokens \(1, 2, 32\) for \(1, 4, 32\)"),
        (add_key, "unexpected: surprise"),
        (truncate, "not a readable safetensors file"),
        (lambda directory: (directory / weights.WEIGHTS).unlink(), "model.safetensors is missing"),
        (lambda directory: (directory / weights.VOCABULARY).unlink(), "vocabulary is missing"),
        (lambda directory: (directory / weights.CARD).write_text("{"), "not JSON"),
        (lambda directory: (directory / weights.CARD).unlink(), "no card.json"),
        (other_weights, r"model.safetensors: not the weights of tiny-1"),
        (change_card("preprocess", {"size": 16}), "preprocess is not that of the card"),
        (change_card("config", {"size": "huge"}), "not a model of this version"),
        (change_card("card", {"name": "x"}), "not a model of this version: card.weights_sha256: missing"),
    ],
)
def test_what_does_not_fit_is_one_line(
    tiny_model: Path, tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    directory = tmp_path / "copy"
    shutil.copytree(tiny_model, directory)
    damage(directory)
    with pytest.raises(WeightsError, match=message) as error:
        load_model(directory)
    assert "\n" not in str(error.value)
    assert "copy" in str(error.value)


def test_models_are_found_by_name_and_folder(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert tiny_model in models.available([tiny_model.parent])
    assert models.find("small") == models.PACKAGED / models.ALIASES["small"]
    assert models.find(tiny_model) == tiny_model
    assert models.find("tiny-1", [tiny_model.parent]) == tiny_model
    with pytest.raises(WeightsError, match="no model 'tiny-1'"):
        models.find("tiny-1")
    monkeypatch.setenv(models.SEARCH_PATH, str(tiny_model.parent))
    assert models.find("tiny-1") == tiny_model
    monkeypatch.delenv(models.SEARCH_PATH)


def test_a_model_without_vectors_gives_tokens_only(tmp_path: Path, make_model: Maker) -> None:
    encoder = load_model(make_model(tmp_path / "plain-1", seed=2, vector=False))
    encoded = encoder.encode_images(pixels(encoder, 2))
    assert encoded.vectors is None
    assert encoded.tokens is not None
    with pytest.raises(ValueError, match="no gallery vector"):
        encoder.sprc.project_vector(torch.zeros(1, 4, 32))


def test_the_official_size_has_the_official_count_of_parameters() -> None:
    with torch.device("meta"):
        model = Sprc(VIT_G_CONFIG)
    ours = sum(parameter.numel() for parameter in model.parameters())
    # The official 1,172,624,574 have beside ours: the LM head (transform, norm, bias; its matrix is tied) and the
    # ITM head, and no key bias in 39 blocks, while ours is there and zero.
    head = 768 * 768 + 768 + 2 * 768 + 30523
    assert ours == 1_172_624_574 - head - (768 * 2 + 2) + 39 * 1408


def test_the_losses_are_sprc_s_when_nothing_is_left_out() -> None:
    torch.manual_seed(0)
    similarities, temperature = torch.randn(5, 5), torch.tensor(0.5)
    plain = torch.nn.functional.cross_entropy(similarities / 0.5, torch.arange(5))
    assert losses.info_nce(similarities, temperature) == pytest.approx(plain.item())
    equal = torch.eye(5, dtype=torch.bool)
    equal[0, 3] = True
    left_out = losses.info_nce(similarities, temperature, equal)
    similarities[0, 3] = -1e9
    assert left_out == pytest.approx(losses.info_nce(similarities, temperature).item())
    assert left_out < plain


def test_alignment_moves_the_prompt_and_not_its_goal(encoder: SprcEncoder) -> None:
    model = encoder.sprc
    prompt = torch.randn(2, 4, 32, requires_grad=True)
    model.prompt_tokens.grad = None
    model.alignment(prompt).backward()
    assert prompt.grad is not None
    assert model.prompt_tokens.grad is None


def test_the_score_is_the_best_token() -> None:
    queries = torch.eye(2, 3)
    tokens = torch.tensor([[[1.0, 0, 0], [0, 1, 0]], [[0, 0.5, 0], [0, 0, 1]]])
    assert scores(queries, tokens).tolist() == [[1, 0], [1, 0.5]]


def test_the_backbone_gathers_seven_by_seven_from_any_size() -> None:
    backbone = EfficientNetLite0(stages=(0, 2, 4, 6)).eval()
    assert backbone.width == 16 + 40 + 112 + 320
    for side in (224, 160, 225):
        assert backbone(torch.zeros(1, 3, side, side)).shape == (1, 49, backbone.width)


def test_devices() -> None:
    assert devices.choose("cpu").type == "cpu"
    assert devices.choose("auto").type in ("cpu", "cuda", "mps")
    with pytest.raises(UsageError, match="unknown device"):
        devices.choose("abacus")
    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match="has no cuda device"):
            devices.choose("cuda")
    before = torch.get_num_threads()
    with devices.shared_by(64, torch.device("cpu")):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


@pytest.mark.gpu
def test_a_gpu_gives_the_same_vectors(tiny_model: Path, encoder: SprcEncoder) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    on_gpu = load_model(tiny_model, device="cuda").encode_images(pixels(encoder, 4)).vectors
    on_cpu = encoder.encode_images(pixels(encoder, 4)).vectors
    assert on_gpu is not None
    assert on_cpu is not None
    assert (on_gpu * on_cpu).sum(axis=1).min() > 0.999


def test_full_precision_is_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    cpu = torch.device("cpu")
    assert devices.backbone_precision(cpu) == torch.bfloat16
    with devices.full_precision():
        assert devices.backbone_precision(cpu) == torch.float32
    assert devices.backbone_precision(cpu) == torch.bfloat16


def test_what_training_left_unchanged_is_stored_once(tmp_path: Path, make_model: Maker) -> None:
    """Two models over one frozen backbone: the file of its tensors may lie in each, or once beside both."""
    start, _, preprocess = weights.load(make_model(tmp_path / "start-1", seed=0))
    vocabulary = (tmp_path / "start-1" / weights.VOCABULARY).read_bytes()
    made = []
    for seed in (1, 2):
        start.requires_grad_(True)
        start.vision.requires_grad_(False)
        start.embeddings.word_embeddings.requires_grad_(False)
        with torch.no_grad():
            start.text_proj.weight += seed
        directory = tmp_path / f"model-{seed}"
        weights.save(directory, start, weights.ModelDescription(directory.name, preprocess, vocabulary))
        made.append(directory)
    digests = {sha256_file(directory / weights.FROZEN) for directory in made}
    assert len(digests) == 1
    whole = weights.load(made[1])[0].state_dict()
    beside = tmp_path / f"frozen-{digests.pop()[:16]}.safetensors"
    (made[0] / weights.FROZEN).rename(beside)
    (made[1] / weights.FROZEN).unlink()
    apart = weights.load(made[1])[0].state_dict()
    assert all(torch.equal(apart[name], value) for name, value in whole.items())
    assert folder.read_card(made[0]).digest != folder.read_card(made[1]).digest
    beside.write_bytes(beside.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(WeightsError, match="is not the file that model-2 was trained with; copy it again"):
        weights.load(made[1])
    beside.unlink()
    with pytest.raises(WeightsError, match=r"left unchanged are missing; copy frozen.safetensors into the directory"):
        weights.load(made[1])


def test_models_share_a_vocabulary_beside_them(tiny_model: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        shutil.copytree(tiny_model, tmp_path / name)
        (tmp_path / name / weights.VOCABULARY).rename(tmp_path / weights.VOCABULARY)
    assert folder.vocabulary_of(tmp_path / "a") == tmp_path / weights.VOCABULARY
    assert {path.name for path in folder.files_of(tmp_path / "b")} == {
        weights.CARD,
        weights.VOCABULARY,
        weights.WEIGHTS,
    }
    ours, theirs = (load_model(path, device="cpu").encode_texts(["in red"]) for path in (tmp_path / "a", tiny_model))
    assert np.array_equal(ours, theirs)
    (tmp_path / weights.VOCABULARY).unlink()
    with pytest.raises(WeightsError, match=r"vocabulary is missing; copy vocab.txt into the directory, or beside it"):
        weights.load(tmp_path / "a")


def test_an_unfinished_model_is_not_listed(tiny_model: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_model, tmp_path / "whole")
    shutil.copytree(tiny_model, tmp_path / ".tmp-0123456789ab-half")  # a writer that was killed
    assert [path for path in models.available([tmp_path]) if path.parent == tmp_path] == [tmp_path / "whole"]


def test_saving_whole_precision_over_the_file_that_is_mapped(sprc_model: Path, tmp_path: Path) -> None:
    model, _, preprocess = weights.load(sprc_model)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with torch.no_grad():
        model.temp += 1  # a copy of ours, not the file
    assert weights.load(sprc_model)[0].temp == before["temp"]
    with torch.no_grad():
        model.temp -= 1
    description = weights.ModelDescription("x", preprocess, (sprc_model / weights.VOCABULARY).read_bytes())
    for _ in range(2):
        weights.save(tmp_path / "m", model, description, compact=False)
        model = weights.load(tmp_path / "m")[0]
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items() if key != "temp")
    assert model.temp.item() == pytest.approx(before["temp"].item())


def test_a_costly_backbone_is_held_as_it_is_multiplied(sprc_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exact = weights.load(sprc_model, backbone=torch.bfloat16)[0]
    assert exact.backbone_precision == torch.float32  # a backbone this small gains nothing
    monkeypatch.setattr(weights, "REDUCED_FROM", 0)
    rounded = weights.load(sprc_model, backbone=torch.bfloat16)[0]
    halves = {key for key, value in rounded.state_dict().items() if value.dtype == torch.bfloat16}
    assert halves == rounded.backbone_matrices()
    pixels = torch.randn(2, 3, 224, 224)
    with torch.inference_mode():
        ours, theirs = rounded.gallery_tokens(pixels), exact.gallery_tokens(pixels)
    assert ours.dtype == torch.float32
    assert F.cosine_similarity(ours, theirs, dim=-1).min() > 0.98  # random weights err more than trained ones
