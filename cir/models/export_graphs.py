"""Making the ONNX graphs of a model (`cir.models.graphs`) from its torch modules. Needs the extra `export`."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from cir.arrays import Floats
from cir.errors import MissingDependencyError, WeightsError
from cir.files import make_folder, remove_tree, sha256_bytes, write_atomically, write_bytes
from cir.models import weights
from cir.models.efficientnet import EfficientNetLite0
from cir.models.encoder import SprcEncoder
from cir.models.graphs import COMPOSED, FEATURES, FOLDER, GALLERY, RECORD, TEXT, GraphEntry, GraphRecord
from cir.models.onnx_encoder import OnnxEncoder
from cir.models.sprc import Sprc
from cir.models.stored_tensors import SCALE, StoredTensors
from cir.typed_json import to_json

TOLERANCE = 1e-4  # by how much a value of a state may differ from torch's, relative to the largest
_OPSET = 20
_CAPTIONS = ("in red, with long sleeves", "is blue", "")
_MOST_CONSTANTS = 100_000  # bytes of numbers in a graph that are no weights


def export_graphs(directory: Path) -> dict[str, float]:
    """Write the ONNX graphs of a model into its folder, in place of any that are there, and compare them with torch.

    Args:
        directory: of a model.

    Returns:
        What was compared -> the largest difference from torch, relative to the largest value.

    Raises:
        MissingDependencyError: the extra `export` is not installed.
        WeightsError: the model is broken, or its graphs do not compute what torch does.
        DataError: the folder cannot be written to.
    """
    tensors = StoredTensors(directory)
    folder = directory / FOLDER
    with write_atomically(folder) as temporary:
        make_folder(temporary)
        sprc, card, preprocess = weights.load(directory)  # changed by `_passes`
        entries = {}
        for name, (module, inputs) in _passes(sprc, preprocess.size, int8_words=SCALE in tensors.shapes).items():
            data, needed = _export(module, inputs, tensors.shapes)
            write_bytes(temporary / f"{name}.onnx", data)
            entries[name] = GraphEntry(sha256_bytes(data), needed)
        record = GraphRecord(card.config_sha256, tensors.shapes, entries)
        write_bytes(temporary / RECORD, json.dumps(to_json(record), separators=(",", ":")).encode())
        on_torch = SprcEncoder(*weights.load(directory), device=torch.device("cpu"))
        differences = _compare(on_torch, OnnxEncoder(directory, temporary), preprocess.size)
        remove_tree(folder)
    return differences


class _Pass(nn.Module):
    """One pass as a module of its own, which an exporter wants."""

    def __init__(self, sprc: Sprc, forward: Callable[..., Tensor]) -> None:
        super().__init__()
        self.sprc = sprc
        self._forward = forward

    def forward(self, *inputs: Tensor) -> Tensor:
        return self._forward(*inputs)


class _StoredWords(nn.Module):
    """The word embedding as compact models store it; only the words of a caption are brought back to float32."""

    def __init__(self, words: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", words)
        self.register_buffer("scale", scale)

    def forward(self, ids: Tensor) -> Tensor:
        words = nn.functional.embedding(ids, self.weight)  # type: ignore[arg-type]
        return words.float() * nn.functional.embedding(ids, self.scale).float()  # type: ignore[arg-type]


_Inputs = dict[str, tuple[Tensor, dict[int, str]]]  # name -> an example and the axes of any length


def _passes(sprc: Sprc, size: int, *, int8_words: bool) -> dict[str, tuple[_Pass, _Inputs]]:
    """Name of a graph -> its module and inputs."""
    with torch.inference_mode():
        features = sprc.image_features(torch.rand(3, 3, size, size))
    ids, mask = sprc.tokenize(_CAPTIONS)
    if int8_words:
        words = sprc.embeddings.word_embeddings.weight
        scale = (words.abs().amax(dim=1, keepdim=True) / 127).clamp_min(1e-8)
        # Their values are not exported, only their types.
        sprc.embeddings.word_embeddings = _StoredWords((words / scale).to(torch.int8), scale.half())
    if isinstance(sprc.vision, EfficientNetLite0):
        sprc.vision.cpu_batch = None  # a graph takes batches of any size
    pixels: _Inputs = {"pixels": (torch.rand(3, 3, size, size), {0: "batch"})}
    seen: _Inputs = {"features": (features.clone(), {0: "batch"})}
    read: _Inputs = {"ids": (ids, {0: "batch", 1: "length"}), "mask": (mask, {0: "batch", 1: "length"})}

    def composed(features: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        return sprc.sentence_state(sprc.sentence_prompt(features, ids, mask), ids, mask)

    return {
        FEATURES: (_Pass(sprc, sprc.image_features), pixels),
        GALLERY: (_Pass(sprc, sprc.target_states), seen),
        COMPOSED: (_Pass(sprc, composed), seen | read),
        TEXT: (_Pass(sprc, sprc.prompted_text_state), read),
    }


def _export(module: _Pass, inputs: _Inputs, tensors: Container[str]) -> tuple[bytes, tuple[str, ...]]:
    """A graph without weights, and the names of the tensors that it needs."""
    try:
        import onnx
        from onnxscript import optimizer
    except ImportError as error:
        raise MissingDependencyError(f"exporting needs {error.name}; pip install 'cir-engine[export]'") from None
    with _quiet(), torch.inference_mode():
        program = torch.onnx.export(
            module.eval(),
            tuple(example for example, _ in inputs.values()),
            dynamo=True,
            dynamic_shapes=(tuple(dict.fromkeys(axes, torch.export.Dim.DYNAMIC) for _, axes in inputs.values()),),
            input_names=list(inputs),
            output_names=["output"],
            opset_version=_OPSET,
            optimize=False,  # it would work weights into constants of the graph
            verbose=False,
        )
        assert program is not None
        model = program.model_proto
        names = {each.name: each.name.removeprefix("sprc.") for each in model.graph.initializer}
        names = {name: own for name, own in names.items() if own in tensors}
        weights = [each for each in model.graph.initializer if each.name in names]
        constants = [each for each in model.graph.initializer if each.name not in names]
        del model.graph.initializer[:]
        model.graph.initializer.extend(constants)
        # As inputs, weights are left alone by the optimiser.
        model.graph.input.extend(
            onnx.helper.make_tensor_value_info(each.name, each.data_type, each.dims) for each in weights
        )
        model = optimizer.optimize(model)
    del model.graph.input[len(inputs) :]
    if sum(each.ByteSize() for each in model.graph.initializer) > _MOST_CONSTANTS:
        raise WeightsError("weights without a name in the model's files would be stored twice")
    for each in weights:
        stub = model.graph.initializer.add(
            name=names[each.name], data_type=each.data_type, dims=each.dims, data_location=onnx.TensorProto.EXTERNAL
        )
        stub.external_data.add(key="location", value="given-from-memory")
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.ClearField("metadata_props")  # stack traces of this machine
        node.ClearField("doc_string")
    return model.SerializeToString(deterministic=True), tuple(names.values())


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's remarks."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def _compare(on_torch: SprcEncoder, on_onnx: OnnxEncoder, size: int) -> dict[str, float]:
    """Differences in everything that an encoder computes, on random pixels; no batch is as large as the examples."""
    rng = np.random.default_rng(0)
    pixels = rng.normal(size=(5, 3, size, size)).astype(np.float32)
    captions = [_CAPTIONS[number % len(_CAPTIONS)] for number in range(len(pixels))]

    def outputs(encoder: SprcEncoder | OnnxEncoder) -> dict[str, Floats]:
        encoded = encoder.encode_images(pixels)
        found = {
            "gallery vectors": encoded.vectors,
            "gallery tokens": encoded.tokens,
            "query states": encoder.query_states(pixels, captions),
            "one query state": encoder.query_states(pixels[:1], ["blue"]),
            "queries": encoder.encode_queries(pixels, captions),
            **{
                f"queries in {space}": encoder.encode_queries(pixels, captions, space)
                for space in encoder.card.query_heads
            },
            "text states": encoder.text_states([*captions, "with a longer caption than the others have"]),
        }
        return {name: value for name, value in found.items() if value is not None}

    found, wanted = outputs(on_onnx), outputs(on_torch)
    differences = {
        name: float(np.abs(found[name] - value).max() / np.abs(value).max()) for name, value in wanted.items()
    }
    for name, difference in differences.items():
        if not difference <= TOLERANCE:
            raise WeightsError(
                f"{on_onnx.directory}: the ONNX graphs give {name} that differ from torch's by {difference:.1e}, more "
                f"than {TOLERANCE}; nothing was kept"
            )
    return differences
