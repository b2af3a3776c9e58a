"""The commands `soraxla import wan` and `soraxla export wan`, a tensor at a time.

Weights keep their stored dtype and bits, unless an adapter is merged into them, so
import and export are inverse to the bit. One file of the output (a block) is in memory
at a time.
"""

import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from soraxla.checkpoints.load import named_tensors
from soraxla.checkpoints.model_folder import LoadedModel, abstract_params, write_folder
from soraxla.checkpoints.usage import family_usage
from soraxla.checkpoints.wan.adapter import Adapter
from soraxla.checkpoints.wan.families import (
    SUPPORTED,
    dit_config_of,
    read_json,
    vae_config_of,
)
from soraxla.checkpoints.wan.layout import (
    Place,
    diffusers_name,
    dit_places,
    is_original,
    vae_places,
)
from soraxla.core import paths
from soraxla.core.config import to_dict
from soraxla.core.errors import UserError
from soraxla.core.trees import is_stacked, named_leaves, unstacked
from soraxla.diffusion.process import Process
from soraxla.files.atomic_folder import atomic_folder
from soraxla.files.disk import save_tensors
from soraxla.files.hub import local
from soraxla.files.tensor_files import (
    INDEX,
    SUFFIX,
    StoredTensor,
    check_tensors,
    load_tensors,
    model_files,
    open_tensors,
)
from soraxla.models import dit
from soraxla.models.dit.config import DiTConfig
from soraxla.models.text import full_name
from soraxla.models.vae.model import VAEConfig
from soraxla.parallel.mesh import REPLICATED, current_shardings

_STEM = "diffusion_pytorch_model"
OURS = "soraxla_only.safetensors"


class Source:
    """A Wan model in its files: our settings, and our tensors by our names."""

    def __init__(
        self,
        model: DiTConfig | VAEConfig,
        tensors: Mapping[str, StoredTensor],
        where: Path,
    ):
        """
        Args:
            tensors: by diffusers' names.
        """
        self.model = model
        self.abstract = abstract_params(model)
        self._tensors = tensors
        self._adapter: Adapter | None = None
        self._places = _places(model, self.abstract)
        check_tensors(
            tensors,
            {place.name: place.their_shape for place in self._places.values()},
            where,
        )

    @property
    def names(self) -> list[str]:
        """Returns the names of our tensors, unstacked, with those that Wan lacks."""
        return [
            name
            for top, leaf in named_leaves(self.abstract).items()
            for name in unstacked(top, leaf.shape)
        ]

    def read(self, name: str) -> np.ndarray:
        """Returns one of our tensors, as stored.

        Tensors that Wan does not have are zero, so that our added embeddings have no
        effect.
        """
        place = self._places.get(name)
        if place is None:
            return np.zeros(named_leaves(self.abstract)[name].shape, np.float32)
        tensor = self._tensors[place.name][()]
        if self._adapter is not None:
            tensor = self._adapter.add(place.name, tensor)
        return place.to_ours(tensor)

    def adapt(self, path: Path) -> None:
        """Adds a LoRA file to the tensors of later reads.

        Raises:
            UserError: as `Adapter`.
        """
        places = self._places.values()
        self._adapter = Adapter(path, {p.name: p.their_shape for p in places})

    def load(self, *, computed: bool = False, **config: Any) -> LoadedModel:
        """Loads the model.

        Args:
            computed: see `abstract_params`.
        """
        rules = dit.RULES if isinstance(self.model, DiTConfig) else REPLICATED
        abstract = abstract_params(self.model, computed=computed)
        shardings = current_shardings(abstract, rules)
        params = load_tensors(self.read, abstract, shardings)
        return LoadedModel(params=params, model=self.model, config=config)


def open_transformer(path: Path) -> Source:
    """Opens the transformer of diffusers' folder (or its `transformer`), or of a file.

    Raises:
        UserError: it is damaged, incomplete, not Wan's, or not supported.
    """
    path = path / "transformer" if (path / "transformer").is_dir() else path
    return _transformer(path, open_tensors(_files(path)))


def _transformer(path: Path, stored: Mapping[str, StoredTensor]) -> Source:
    renamed = diffusers_name if is_original(stored) else str
    tensors = {renamed(name): tensor for name, tensor in stored.items()}
    # diffusers keeps an image norm in some text-to-video files.
    tensors = {k: v for k, v in tensors.items() if ".norm_added_q." not in k}
    home = path if path.is_dir() else path.parent
    if (home.parent / "transformer_2").is_dir():
        raise UserError(
            f"{home.parent}: two transformers that take turns (Wan 2.2 A14B); "
            f"supported: {SUPPORTED}"
        )
    scheduler = read_json(home.parent / "scheduler" / "scheduler_config.json")
    model = dit_config_of(
        _shapes(tensors),
        read_json(home / "config.json"),
        path,
        shift=scheduler.get("flow_shift"),
    )
    return Source(model, tensors, path)


def open_vae(path: Path) -> Source:
    """Opens the VAE of diffusers' folder (or its `vae`), or of a file.

    Raises:
        UserError: as `open_transformer`.
    """
    path = path / "vae" if (path / "vae").is_dir() else path
    return _vae(path, open_tensors(_files(path)))


def _vae(path: Path, tensors: Mapping[str, StoredTensor]) -> Source:
    home = path if path.is_dir() else path.parent
    config = read_json(home / "config.json")
    return Source(vae_config_of(_shapes(tensors), config, path), tensors, path)


def import_wan(
    sources: list[paths.Place],
    out: paths.Place,
    *,
    text_encoder: str | None = None,
    adapter: paths.Place | None = None,
) -> None:
    """Writes `out/dit` and `out/vae` from diffusers' folder, or from files of each.

    Args:
        text_encoder: the encoder of prompts; None takes the umT5 of diffusers' folder.
        adapter: a LoRA file, or its folder, that is added to the transformer's weights.

    Raises:
        UserError: `out` exists, or a source is refused. Nothing is written then.
    """
    if out.exists():
        raise UserError(f"{out}: exists; remove it or choose another --out")
    given, copies = sources[0], [local(source) for source in sources]
    parts = _parts(copies)
    if adapter is not None:
        if "dit" not in parts:
            raise UserError(f"{adapter}: adapts a transformer; give its weights too")
        parts["dit"].adapt(local(adapter))
    if text_encoder is not None:
        text_encoder = full_name(text_encoder)
    elif "dit" in parts:
        if not (copies[0] / "text_encoder").is_dir():
            raise UserError(
                f"{copies[0]}: holds no text encoder; name it, such as "
                "--text-encoder umt5:PATH"
            )
        # A copy from a bucket is gone after this command.
        whole = given if paths.is_remote(given) else copies[0]
        text_encoder = f"umt5:{(whole / 'text_encoder').resolve()}"
    with atomic_folder(out) as partial:
        for kind, source in parts.items():
            config: dict[str, Any] = {"kind": kind, "model": to_dict(source.model)}
            if text_encoder is not None and kind == "dit":
                config |= _dit_config(source.model, text_encoder)
            write_folder(partial / kind, source.names, source.read, config)


def load_wan(folder: Path) -> tuple[LoadedModel, LoadedModel]:
    """Loads transformer and VAE of diffusers' folder for sampling; writes nothing.

    The transformer's kernels have the dtype of their products. The folder's umT5 reads
    the prompts.

    Raises:
        UserError: as `open_transformer`.
    """
    transformer, autoencoder = open_transformer(folder), open_vae(folder)
    config = _dit_config(transformer.model, f"umt5:{folder / 'text_encoder'}")
    return transformer.load(computed=True, **config), autoencoder.load()


def _dit_config(model: DiTConfig | VAEConfig, text_encoder: str) -> dict[str, Any]:
    usage = family_usage(model)
    assert usage is not None  # the layout is Wan's
    return {
        "process": to_dict(Process()),
        "text_encoder": text_encoder,
        **usage.record(),
    }


def _parts(sources: list[Path]) -> dict[str, Source]:
    if len(sources) == 1 and (sources[0] / "transformer").is_dir():
        sources = [sources[0] / "transformer", sources[0] / "vae"]
    parts: dict[str, Source] = {}
    for path in sources:
        if not path.exists():
            raise UserError(f"{path}: no such file or folder; give diffusers' folder")
        tensors = open_tensors(_files(path))
        kind = "vae" if any(n.startswith("encoder.") for n in tensors) else "dit"
        if kind in parts:
            raise UserError(
                f"{path}: a second {kind}; give one transformer and one VAE"
            )
        parts[kind] = (_vae if kind == "vae" else _transformer)(path, tensors)
    return parts


def export_wan(checkpoint: paths.Place, out: paths.Place) -> list[str]:
    """Writes `out/transformer` and `out/vae`, which diffusers loads.

    Returns:
        The non-zero tensors that diffusers cannot hold; they are in
            `out/transformer/soraxla_only.safetensors`.

    Raises:
        UserError: `out` exists; `checkpoint` is incomplete or damaged, or its VAE is
            linear.
    """
    with atomic_folder(out) as partial:
        _export_part(checkpoint, "vae", partial / "vae")
        return _export_part(checkpoint, "dit", partial / "transformer")


def _export_part(checkpoint: paths.Place, kind: str, out: Path) -> list[str]:
    names, read, model = named_tensors(checkpoint, kind)
    assert isinstance(model, DiTConfig | VAEConfig)
    if isinstance(model, VAEConfig) and (model.linear or model.patched):
        kind = "linear" if model.linear else "patched"
        raise UserError(
            f"{checkpoint}: its VAE is {kind}, which diffusers has no class for; "
            "export it in soraxla's layout"
        )
    if isinstance(model, DiTConfig) and (
        model.input_gate or model.local_layers or model.forecast_layers
    ):
        raise UserError(
            f"{checkpoint}: its transformer adds to its answer beside the head, which "
            "Wan's does not; export it in soraxla's layout"
        )
    places = _places(model, abstract_params(model))
    config = _their_config(model)
    shards: dict[str, list[str]] = defaultdict(list)
    for name in names:
        if name in places:
            shards[".".join(name.split(".")[:2]) if is_stacked(name) else ""].append(
                name
            )
    out.mkdir(parents=True)
    weight_map, total = {}, 0
    for i, members in enumerate(tqdm(shards.values(), unit="file", disable=None)):
        file = f"{_STEM}-{i + 1:05d}-of-{len(shards):05d}{SUFFIX}"
        if len(shards) == 1:
            file = f"{_STEM}{SUFFIX}"
        tensors = {
            places[n].name: np.ascontiguousarray(places[n].to_theirs(read(n)))
            for n in members
        }
        save_tensors(tensors, out / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, file)
        total += sum(tensor.nbytes for tensor in tensors.values())
    if len(shards) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        _write_json(out / f"{_STEM}{INDEX}", index)
    _write_json(out / "config.json", config)
    ours = {n: read(n) for n in names if n not in places}
    ours = {n: tensor for n, tensor in ours.items() if np.any(tensor)}
    if ours:
        save_tensors(ours, out / OURS)
    return sorted(ours)


def _their_config(model: DiTConfig | VAEConfig) -> dict[str, Any]:
    if isinstance(model, VAEConfig):
        return {
            "_class_name": "AutoencoderKLWan",
            "base_dim": model.base_width,
            "decoder_base_dim": model.decoder_width,
            "z_dim": model.latent_channels,
            "dim_mult": model.multipliers,
            "num_res_blocks": model.res_blocks,
            "temperal_downsample": model.temporal_down,
            "latents_mean": model.latent_mean,
            "latents_std": model.latent_std,
            "is_residual": model.residual,
            "in_channels": 3 * model.pixel_patch**2,
            "out_channels": 3 * model.pixel_patch**2,
            "patch_size": model.pixel_patch if model.pixel_patch > 1 else None,
            "scale_factor_temporal": model.temporal,
            "scale_factor_spatial": model.spatial,
        }
    return {
        "_class_name": "WanTransformer3DModel",
        "patch_size": model.patch,
        "num_attention_heads": model.heads,
        "attention_head_dim": model.head_dim,
        "in_channels": model.latent_channels,
        "out_channels": model.latent_channels,
        "text_dim": model.text_width,
        "freq_dim": 256,
        "ffn_dim": model.mlp_width,
        "num_layers": model.layers,
        "cross_attn_norm": True,
        "qk_norm": "rms_norm_across_heads",
        "eps": 1e-6,
    }


def _places(model: DiTConfig | VAEConfig, abstract: Any) -> dict[str, Place]:
    if isinstance(model, DiTConfig):
        return dit_places(model, abstract)
    return vae_places(model, abstract)


def _files(path: Path) -> list[Path]:
    return model_files(path) if path.is_dir() else [path]


def _shapes(tensors: Mapping[str, StoredTensor]) -> dict[str, tuple[int, ...]]:
    return {name: tensor.shape for name, tensor in tensors.items()}


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
