"""ONNX graphs of a model: `cir export-onnx` writes them into its folder, ONNX Runtime runs them.

A graph holds no weights, only the names of tensors. Those are read from the model's own files, once for all graphs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Annotated, Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from cir.arrays import Floats
from cir.errors import WeightsError
from cir.files import parse_json, read_regular, sha256_bytes
from cir.models.stored_tensors import SCALE, StoredTensors
from cir.typed_json import Within, from_json
from cir.types import ModelCard, Sha256

FOLDER, RECORD = "onnx", "graphs.json"
FEATURES, GALLERY, COMPOSED, TEXT = GRAPHS = ("features", "gallery", "composed", "text")
# For each call: several callers keep all cores busy, and beside other jobs nobody waits for a thread that has lost its
# core (docs/results/runtimes.md).
THREADS = 1
LARGEST = 50_000_000  # bytes of a graph or a record; the largest of `small` has 140,000


@dataclass(frozen=True)
class GraphEntry:
    """One graph.

    Attributes:
        sha256: of its file, `NAME.onnx`.
        weights: names of the tensors that it needs.
    """

    sha256: Sha256
    weights: Annotated[tuple[str, ...], Within(0, 10_000)]


@dataclass(frozen=True)
class GraphRecord:
    """What `onnx/graphs.json` holds.

    Attributes:
        config_sha256: of the configuration that the graphs express (`ModelCard.config_sha256`).
        int8_words: whether they take the word embedding in int8, as compact models store it.
        graphs: by name: "features", pixels -> backbone features; "gallery", features -> states of pass C; "composed",
            features and a caption -> the state of pass B; "text", a caption -> the state of pass D.
    """

    config_sha256: Sha256
    int8_words: bool
    graphs: Mapping[str, GraphEntry]

    def __post_init__(self) -> None:
        """Raises ValueError unless all graphs are there."""
        if set(self.graphs) != set(GRAPHS):
            raise ValueError(f"graphs: not {', '.join(GRAPHS)}")


def has_graphs(directory: Path) -> bool:
    """Whether a model directory has graphs, of whatever kind."""
    return (directory / FOLDER / RECORD).exists()


class Graphs:
    """The graphs of one model, each opened when it is first run. Safe to call from several threads.

    Args:
        directory: of the model.
        card: its card.
        tensors: its tensors.

    Raises:
        WeightsError: the graphs are damaged, or not those of this model.
    """

    def __init__(self, directory: Path, card: ModelCard, tensors: StoredTensors) -> None:
        self._folder = directory / FOLDER
        self._tensors = tensors
        try:
            record = from_json(GraphRecord, parse_json(read_regular(self._folder / RECORD, LARGEST)))
        except (OSError, ValueError) as error:
            self._refuse(RECORD, f"cannot be read: {getattr(error, 'strerror', None) or error}")
        if record.config_sha256 != card.config_sha256:
            self._refuse(RECORD, f"was made for another model than {card.name}")
        if record.int8_words != (SCALE in tensors):
            self._refuse(RECORD, "was made for weights that were stored otherwise")
        self._record = record
        self._sessions: dict[str, Any] = {}
        self._values: dict[str, Any] = {}  # tensors as ONNX Runtime takes them; it does not keep them alive
        self._lock = Lock()

    def run(self, name: str, **inputs: NDArray[Any]) -> Floats:
        """The one output of a graph, float32.

        Args:
            name: of `GRAPHS`.
            inputs: as the graph names them.
        """
        result: Floats = self._session(name).run(None, inputs)[0]
        return result

    def _session(self, name: str) -> Any:
        with self._lock:
            if name not in self._sessions:
                self._sessions[name] = self._open(name)
            return self._sessions[name]

    def _open(self, name: str) -> Any:
        import onnxruntime

        entry, file = self._record.graphs[name], f"{name}.onnx"
        try:
            data = read_regular(self._folder / file, LARGEST)
        except (OSError, ValueError) as error:
            self._refuse(file, f"cannot be read: {getattr(error, 'strerror', None) or error}")
        if sha256_bytes(data) != entry.sha256:
            self._refuse(file, f"is not the file that {RECORD} names")
        for weight in entry.weights:
            if weight not in self._values:
                array = np.require(self._tensors.array(weight), requirements="C")
                self._values[weight] = onnxruntime.OrtValue.ortvalue_from_numpy(array)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = THREADS
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        if name != FEATURES:  # convolutions gain from more than that, the Q-Former only loads later
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.add_external_initializers(list(entry.weights), [self._values[weight] for weight in entry.weights])
        try:
            return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime has one class for each of its own codes
            self._refuse(file, f"is refused by ONNX Runtime: {' '.join(str(error).split())[:200]}")

    def _refuse(self, file: str, why: str) -> NoReturn:
        raise WeightsError(f"{self._folder / file}: {why}; make it again: cir export-onnx {self._folder.parent}")
