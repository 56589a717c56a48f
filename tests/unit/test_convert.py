"""Checkpoints of every kind become models, keep their numbers, and are refused in one line when they do not fit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from cir import load_model
from cir.errors import DataError, UsageError, WeightsError
from cir.models import PACKAGED, folder, weights
from cir.models import convert as conversion
from cir.models.checkpoints import Checkpoint, open_checkpoint
from cir.models.config import VIT_G_CONFIG, SprcConfig
from cir.models.convert import convert
from cir.models.sprc import Sprc

CLASS = "Blip2QformerCirAlignPrompt"
HEADS = {"vision_heads": 4, "qformer_heads": 4}
KEYS = Path(__file__).parents[1] / "golden" / "data" / "sprc-tiny" / "keys-vit-g.txt"


@pytest.fixture(scope="module")
def state(sprc_checkpoint: Path) -> dict[str, Tensor]:
    """The official state of the tiny model."""
    return dict(open_checkpoint(sprc_checkpoint).tensors)


@pytest.fixture
def given(state: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Tensor]:
    """The tensors that the next conversion finds, to be changed; without a file in between."""
    tensors = dict(state)
    monkeypatch.setattr(conversion, "open_checkpoint", lambda name: Checkpoint(tmp_path / "some.pt", "SPRC", tensors))
    return tensors


def test_the_published_size_is_the_one_we_know() -> None:
    listed = [line.split("\t") for line in KEYS.read_text().splitlines()]
    tensors = {
        key: torch.empty([int(n) for n in shape.strip("()").split(",") if n.strip()], device="meta")
        for key, shape, _ in listed
    }
    source = Checkpoint(Path("sprc_cirr.pt"), "SPRC", tensors)
    config, names = conversion.configuration(source, tensors, None, None)
    assert config == VIT_G_CONFIG
    used = {key for keys, _ in conversion.sources(source, tensors, config, names).values() for key in keys}
    ignored = sorted(key for key in tensors.keys() - used)
    assert len(tensors) == 858
    assert len(ignored) == 10
    assert all(key.startswith(("Qformer.cls.", "itm_head.", "Qformer.bert.embeddings.position_ids")) for key in ignored)


def test_precision_is_kept_and_loaded_as_float32(given: dict[str, Tensor], tmp_path: Path) -> None:
    for key, value in given.items():  # as the official code stores it: the image encoder's matrices in float16
        if key.startswith("visual_encoder.") and value.ndim > 1 and "embed" not in key and "token" not in key:
            given[key] = value.half()
    given["temp"] = given["temp"].double()
    done = convert("some.pt", tmp_path / "model", **HEADS)
    stored = load_file(tmp_path / "model" / weights.WEIGHTS)
    halves = {key for key, value in stored.items() if value.dtype == torch.float16}
    assert halves == {
        f"vision.model.encoder.layers.{i}.{name}.weight"
        for i in (0, 1)
        for name in ("self_attn.qkv", "self_attn.projection", "mlp.fc1", "mlp.fc2")
    }
    assert {value.dtype for key, value in stored.items() if key not in halves} == {torch.float32}
    assert torch.equal(stored["query_tokens"], given["query_tokens"])
    model, card, _ = weights.load(tmp_path / "model")
    assert {value.dtype for value in model.state_dict().values()} == {torch.float32}
    assert torch.equal(
        model.vision.model.encoder.layers[0].mlp.fc1.weight, given["visual_encoder.blocks.0.mlp.fc1.weight"]
    )
    assert card == done.card
    assert not card.vector
    assert done.notes == ()


def test_the_same_checkpoint_is_the_same_model_and_other_heads_are_another(
    given: dict[str, Tensor], tmp_path: Path
) -> None:
    first, second = (convert("some.pt", tmp_path / name, **HEADS).card for name in ("a", "b"))
    other = convert("some.pt", tmp_path / "c", vision_heads=2, qformer_heads=4).card
    assert first.digest == second.digest != other.digest
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["a", "b", "c"]


@pytest.mark.parametrize("drop", [True, False], ids=["missing", "misshapen"])
def test_each_tensor_that_does_not_fit_is_named(given: dict[str, Tensor], tmp_path: Path, drop: bool) -> None:
    """Also those that sizes are read from."""
    names = [key for key in given if not key.startswith(("Qformer.cls", "itm_head")) and "position_ids" not in key]
    own = [key for key in names if ".layer." not in key and ".blocks." not in key and key != "temp"]
    for key in [*own, "visual_encoder.blocks.1.mlp.fc1.weight", "Qformer.bert.encoder.layer.2.output.dense.bias"]:
        kept = given.pop(key)
        if not drop:
            given[key] = F.pad(kept, (0, 1))
        with pytest.raises(WeightsError, match=key) as error:
            convert("some.pt", tmp_path / "model", **HEADS)
        assert "\n" not in str(error.value)
        given[key] = kept
    assert list(tmp_path.iterdir()) == []


def test_one_error_names_everything_that_does_not_fit(given: dict[str, Tensor], tmp_path: Path) -> None:
    del given["text_proj.bias"]
    given["text_proj.biass"] = torch.zeros(256)
    given["vision_proj.weight"] = torch.zeros(256, 65)
    with pytest.raises(WeightsError) as error:
        convert("some.pt", tmp_path / "model", **HEADS)
    assert str(error.value).endswith(
        "does not fit; missing: text_proj.bias; unexpected: text_proj.biass; "
        "misshapen: vision_proj.weight (256, 65) for (256, 64)"
    )


def test_values_that_cannot_be_weights(given: dict[str, Tensor], tmp_path: Path) -> None:
    given["text_proj.bias"] = torch.full((256,), torch.nan)
    with pytest.raises(WeightsError, match=r"text_proj\.bias holds values that are not finite"):
        convert("some.pt", tmp_path / "model", **HEADS)
    given["text_proj.bias"] = torch.zeros(256, dtype=torch.int64)
    with pytest.raises(WeightsError, match=r"text_proj\.bias holds torch\.int64"):
        convert("some.pt", tmp_path / "model", **HEADS)


def test_heads_are_known_given_or_asked_for(given: dict[str, Tensor], tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"--vision-heads \(width 64\) and --qformer-heads \(width 64\)"):
        convert("some.pt", tmp_path / "model")
    with pytest.raises(WeightsError, match="5 heads do not divide the width 64"):
        convert("some.pt", tmp_path / "model", vision_heads=5, qformer_heads=4)


def test_tied_tensors_are_stored_twice(given: dict[str, Tensor], tmp_path: Path) -> None:
    given["text_proj.weight"] = given["vision_proj.weight"]
    convert("some.pt", tmp_path / "model", **HEADS)
    stored = load_file(tmp_path / "model" / weights.WEIGHTS)
    assert torch.equal(stored["text_proj.weight"], stored["vision_proj.weight"])


def test_lavis_without_prompts_temperature_and_image_encoder(
    state: dict[str, Tensor], sprc_model: Path, tmp_path: Path
) -> None:
    rest = {k: v for k, v in state.items() if not k.startswith(("visual_encoder.", "prompt_tokens", "temp"))}
    torch.save({"model": rest, "epoch": 3}, tmp_path / "blip2_pretrained.pth")
    with pytest.raises(WeightsError, match="no image encoder in it"):
        convert(tmp_path / "blip2_pretrained.pth", tmp_path / "model", **HEADS)
    eva = {k.removeprefix("visual_encoder."): v for k, v in state.items() if k.startswith("visual_encoder.")}
    last = {k.replace("blocks.1.", "blocks.2."): v + 1 for k, v in eva.items() if k.startswith("blocks.1.")}
    torch.save({**eva, **last, "norm.weight": eva["blocks.0.norm1.weight"]}, tmp_path / "eva_vit_g.pth")
    done = convert(tmp_path / "blip2_pretrained.pth", tmp_path / "model", vision=tmp_path / "eva_vit_g.pth", **HEADS)
    assert [note.split(":")[0] for note in done.notes] == [
        "no temp in the checkpoint",
        "no prompt_tokens in the checkpoint",
    ]
    assert done.card.training["converted from"] == {"file": "blip2_pretrained.pth", "kind": "LAVIS", "epoch": 3}
    ours, whole = (load_file(folder / weights.WEIGHTS) for folder in (tmp_path / "model", sprc_model))
    assert ours.keys() == whole.keys()
    assert {key for key in whole if not torch.equal(ours[key], whole[key])} == {"prompt_tokens"}
    assert ours["temp"].item() == pytest.approx(0.07)  # and it was that
    assert ours["prompt_tokens"].std().item() == pytest.approx(0.02, rel=0.1)
    torch.save({"model": state}, tmp_path / "whole.pth")
    with pytest.raises(UsageError, match="leave out --vision"):
        convert(tmp_path / "whole.pth", tmp_path / "other", vision=tmp_path / "eva_vit_g.pth", **HEADS)


def clip_state(width: int, layers: int) -> dict[str, Tensor]:
    """Random weights of CLIP's ViT as BLIP-2's ViT-L names them; 28-pixel pictures in 14-pixel patches."""
    generator = torch.Generator().manual_seed(4)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator) * 0.2

    drawn = {
        "class_embedding": draw(width),
        "positional_embedding": draw(5, width),
        "conv1.weight": draw(width, 3, 14, 14),
    }
    norms = ["ln_pre"]
    for i in range(layers):
        block = f"transformer.resblocks.{i}"
        norms += [f"{block}.ln_1", f"{block}.ln_2"]
        for name, out, into in (
            ("attn.in_proj_", 3 * width, width),
            ("attn.out_proj.", width, width),
            ("mlp.c_fc.", 4 * width, width),
            ("mlp.c_proj.", width, 4 * width),
        ):
            drawn |= {f"{block}.{name}weight": draw(out, into), f"{block}.{name}bias": draw(out)}
    for norm in norms:
        drawn |= {f"{norm}.weight": 1 + draw(width), f"{norm}.bias": draw(width)}
    return drawn


def clip_features(state: dict[str, Tensor], pixels: Tensor, heads: int) -> Tensor:
    """What CLIP computes from them, written from its definition."""
    width = len(state["class_embedding"])

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, (width,), state[f"{name}.weight"], state[f"{name}.bias"], 1e-5)

    x = F.conv2d(pixels, state["conv1.weight"], stride=14).flatten(2).transpose(1, 2)
    x = torch.cat([state["class_embedding"].expand(len(x), 1, -1), x], dim=1) + state["positional_embedding"]
    x = norm(x, "ln_pre")
    blocks = sorted({key.rsplit(".", 2)[0] for key in state if key.endswith("ln_1.weight")})
    for block in blocks:
        attention = torch.nn.MultiheadAttention(width, heads, batch_first=True)
        prefix = f"{block}.attn."
        attention.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
        y = norm(x, f"{block}.ln_1")
        x = x + attention(y, y, y, need_weights=False)[0]
        y = F.linear(norm(x, f"{block}.ln_2"), state[f"{block}.mlp.c_fc.weight"], state[f"{block}.mlp.c_fc.bias"])
        y = y * torch.sigmoid(1.702 * y)
        x = x + F.linear(y, state[f"{block}.mlp.c_proj.weight"], state[f"{block}.mlp.c_proj.bias"])
    return x


@torch.no_grad()
def test_vit_l_is_clip(given: dict[str, Tensor], tmp_path: Path) -> None:
    clip = clip_state(width=64, layers=2)
    for key in [key for key in given if key.startswith("visual_encoder.")]:
        del given[key]
    given |= {f"visual_encoder.{key}": value for key, value in clip.items()}
    convert("some.pt", tmp_path / "model", **HEADS)
    model = weights.load(tmp_path / "model")[0]
    assert model.config.vision["type"] == "clip"
    pixels = torch.randn(2, 3, 28, 28)
    # Values reach 16, where float32 is 2e-6 apart, and CPUs add in different orders.
    torch.testing.assert_close(model.image_features(pixels), clip_features(clip, pixels, 4), rtol=1e-5, atol=1e-4)
    encoder = load_model(tmp_path / "model", device="cpu")
    tokens = encoder.encode_images(pixels.numpy()).tokens
    assert tokens is not None
    assert tokens.shape == (2, 32, 256)
    given["visual_encoder.ln_post.weight"] = torch.ones(64)
    with pytest.raises(WeightsError, match=r"unexpected: visual_encoder\.ln_post\.weight"):
        convert("some.pt", tmp_path / "other", **HEADS)


def test_folders_that_hold_no_checkpoint(tmp_path: Path, sprc_model: Path) -> None:
    with pytest.raises(WeightsError, match="no checkpoint"):
        convert(tmp_path, tmp_path / "model")
    with pytest.raises(WeightsError, match="a model of cir already"):
        convert(sprc_model, tmp_path / "model")


def test_what_is_there_is_not_touched(sprc_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="is there already"):
        convert(sprc_checkpoint, tmp_path / "model", **HEADS)
    (tmp_path / "empty").mkdir()
    convert(sprc_checkpoint, tmp_path / "empty", **HEADS)
    with pytest.raises(DataError, match="cannot be written: File exists; check the folder"):
        convert(sprc_checkpoint, tmp_path / "model" / "mine.txt" / "model", **HEADS)


def test_a_failure_while_writing_leaves_nothing(
    sprc_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(weights, "write_json", full)  # the card is written last
    with pytest.raises(DataError, match=r"disk full while writing .*/model: free at least .* MB"):
        convert(sprc_checkpoint, tmp_path / "model", **HEADS)
    assert list(tmp_path.iterdir()) == []


def test_the_vocabulary_is_the_packaged_one_and_dec(sprc_model: Path) -> None:
    words = (sprc_model / weights.VOCABULARY).read_bytes()
    assert words == (PACKAGED / weights.VOCABULARY).read_bytes() + b"[DEC]\n"
    assert words.count(b"\n") == weights.load(sprc_model)[0].config.vocabulary


def test_the_digest_of_a_converted_model_stays(sprc_model: Path) -> None:
    """Indexes record it: sizes, words and tensors may not change by how they are written."""
    assert folder.read_card(sprc_model).digest == "6f02e4622413e7f9"


def test_another_vocabulary(sprc_checkpoint: Path, tmp_path: Path, tiny_model: Path) -> None:
    convert(sprc_checkpoint, tmp_path / "model", vocabulary=tiny_model / "vocab.txt", **HEADS)
    assert (tmp_path / "model" / "vocab.txt").read_bytes() == (tiny_model / "vocab.txt").read_bytes()
    long = tmp_path / "long.txt"
    long.write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n" + "\n".join(map(str, range(31_000))))
    with pytest.raises(WeightsError, match="31004 words for 30523 embeddings"):
        convert(sprc_checkpoint, tmp_path / "other", vocabulary=long, **HEADS)


MEASURE = """
import resource, sys
from pathlib import Path
import transformers.models.blip_2.modeling_blip_2
from cir.models.convert import convert
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
before = peak()
convert(sys.argv[1], Path(sys.argv[2]))
print(peak() - before)
"""


@pytest.mark.slow
def test_peak_memory_stays_below_one_and_a_half_checkpoints(tmp_path: Path) -> None:
    """Widths of the published model, few layers: 300 MB. What Python and torch need by themselves is not counted."""
    config = SprcConfig(vision={**VIT_G_CONFIG.vision, "num_hidden_layers": 2, "intermediate_size": 6144}, layers=6)
    checkpoint = tmp_path / "sprc.pt"
    torch.save({"epoch": 0, CLASS: official_state(config)}, checkpoint)
    size = checkpoint.stat().st_size
    assert size > 300e6
    command = [sys.executable, "-c", MEASURE, str(checkpoint), str(tmp_path / "model")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 1.5 * size


def official_state(config: SprcConfig) -> dict[str, Tensor]:
    """Zeros under the names and in the precision of the official code."""
    with torch.device("meta"):
        model = Sprc(config)
    found: dict[str, Tensor] = {}
    source = Checkpoint(Path("x"), "SPRC", {"visual_encoder.cls_token": torch.zeros(1)})
    names = conversion.Names(source, source.tensors)
    matrices = model.backbone_matrices()
    for ours, value in model.state_dict().items():
        keys, _ = names.sources(ours)
        shape = (value.shape[0] // len(keys), *value.shape[1:]) if len(keys) > 1 else value.shape
        dtype = torch.float16 if ours in matrices else torch.float32
        found |= {key: torch.zeros(shape, dtype=dtype) for key in keys if key}
    return found
