"""The choice of metrics by name, and the networks that they need."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from soraxla.core.config import nearest
from soraxla.core.errors import UserError
from soraxla.evals.clip_score import load_clip
from soraxla.evals.features import EXTRACTORS, load_features
from soraxla.evals.metrics import perceptual
from soraxla.evals.metrics.clip_rank import CLIPRank
from soraxla.evals.metrics.clip_score import CLIPScore
from soraxla.evals.metrics.consistency import Consistency
from soraxla.evals.metrics.drift import Drift
from soraxla.evals.metrics.flicker import Flicker
from soraxla.evals.metrics.frame_change import FrameChange
from soraxla.evals.metrics.frechet import Frechet
from soraxla.evals.metrics.join_ratio import JoinRatio
from soraxla.evals.metrics.metric import Extractor, SetMetric
from soraxla.evals.metrics.mmd import MMD
from soraxla.evals.metrics.motion import DynamicDegree, Motion
from soraxla.evals.metrics.psnr import PSNR
from soraxla.evals.metrics.ssim import SSIM
from soraxla.evals.optical_flow import load_flow
from soraxla.files.hub import local

METRICS: dict[str, Callable[[], SetMetric]] = {
    "psnr": PSNR,
    "ssim": SSIM,
    "flicker": Flicker,
    "frame_change": FrameChange,
}
# Metrics of NAME@PLACES, such as join_ratio@16+32.
PLACE_METRICS: dict[str, Callable[[tuple[int, ...]], SetMetric]] = {
    "join_ratio": lambda places: JoinRatio(joins=places),
    "psnr": lambda places: PSNR(places=places),
}
FEATURE_METRICS: dict[str, Callable[[Extractor | None], SetMetric]] = {
    "frechet": lambda extractor: Frechet(extractor=extractor),
    "mmd": lambda extractor: MMD(extractor=extractor),
    "cmmd": lambda extractor: MMD(extractor=extractor, kernel="gaussian"),
    "jmmd": lambda extractor: MMD(extractor=extractor, kernel="quadratic"),
    "consistency": lambda extractor: Consistency(extractor=extractor),
    "drift": lambda extractor: Drift(extractor=extractor),
}
# Metrics that follow a clip from frame to frame, which features of videos cannot.
FRAME_METRICS = ("consistency", "drift")
# Metrics that are known by a name when they use these features, and only then.
PUBLISHED = {
    ("frechet", "i3d"): "fvd",  # arXiv 1812.01717
    ("frechet", "inception"): "fid",  # arXiv 1706.08500
    ("mmd", "inception"): "kid",  # arXiv 1801.01401
}
# Networks that metrics use as a whole, by the name of --features, from their place.
NETWORKS: dict[str, Callable[[str], Any]] = {
    "clip": lambda place: load_clip(local(place)),
    "vgg": lambda place: perceptual.load(Path(place) if place else None),
    "raft": lambda place: load_flow(local(place)),
}
# Metrics of one network each, with its name.
NETWORK_METRICS: dict[str, tuple[str, Callable[[Any], SetMetric]]] = {
    "clip_score": ("clip", lambda model: CLIPScore(model=model)),
    "clip_best_frame": ("clip", lambda model: CLIPScore(model=model, of="best")),
    "clip_rank": ("clip", lambda model: CLIPRank(model=model)),
    "perceptual": ("vgg", lambda vgg: perceptual.PerceptualDistance(network=vgg)),
    "motion": ("raft", lambda flow: Motion(flow=flow)),
    "dynamic_degree": ("raft", lambda flow: DynamicDegree(flow=flow)),
}
NAMES = tuple(
    dict.fromkeys((*METRICS, "join_ratio", *FEATURE_METRICS, *NETWORK_METRICS))
)


@dataclass(frozen=True, kw_only=True)
class Networks:
    """The networks of a run.

    Attributes:
        extractors: of features.
        models: those of `NETWORK_METRICS`, by the name of --features.
    """

    extractors: Sequence[Extractor] = ()
    models: Mapping[str, Any] = field(default_factory=dict)

    def hashes(self) -> dict[str, str]:
        """Returns the SHA-256 of each network's weights, by its name."""
        return {x.name: x.sha256 for x in (*self.extractors, *self.models.values())}


def load_networks(names: Sequence[str], specs: Sequence[str]) -> Networks:
    """Returns the networks that the metrics need, from NAME:FOLDER each.

    Raises:
        UserError: an unknown name, or no such weights.
    """
    places = {name: place for name, _, place in (s.partition(":") for s in specs)}
    needed = {NETWORK_METRICS[name][0] for name in names if name in NETWORK_METRICS}
    models = {
        n: NETWORKS[n](places[n]) for n in NETWORKS if n in needed & places.keys()
    }
    extractors: list[Extractor] = []
    if any(name in FEATURE_METRICS for name in names):
        for spec in specs:
            name = spec.partition(":")[0]
            if name in EXTRACTORS or name not in NETWORKS:
                shared = models.get(name)
                extractors.append(shared.frames if shared else load_features(spec))
    return Networks(extractors=extractors, models=models)


def chosen_metrics(names: Sequence[str], networks: Networks) -> dict[str, SetMetric]:
    """Returns the metrics of the names, one for each extractor if they use one.

    Raises:
        UserError: an unknown or repeated name, or a metric without its features.
    """
    chosen: dict[str, SetMetric] = {}
    for name in names:
        made = _made(name, networks)
        if chosen.keys() & made.keys():
            raise UserError(f"metric {name!r} is named twice; name it once")
        chosen |= made
    return chosen


def _made(name: str, networks: Networks) -> dict[str, SetMetric]:
    if name in METRICS:
        return {name: METRICS[name]()}
    if name in FEATURE_METRICS:
        if not networks.extractors:
            raise UserError(f"metric {name!r} needs --features, such as clip:FOLDER")
        return dict(_of_features(name, networks.extractors))
    if name in NETWORK_METRICS:
        needed, make = NETWORK_METRICS[name]
        if needed not in networks.models:
            raise UserError(f"metric {name!r} needs --features {needed}:PLACE")
        return {name: make(networks.models[needed])}
    base, _, places = name.partition("@")
    if base in PLACE_METRICS:
        numbers = places.split("+")
        if not all(number.isascii() and number.isdigit() for number in numbers):
            raise UserError(
                f"metric {name!r} names no frames, expected {base}@16 or {base}@16+32"
            )
        return {name: PLACE_METRICS[base](tuple(map(int, numbers)))}
    raise UserError(f"unknown metric {name!r}{nearest(base, NAMES)}")


def _of_features(
    name: str, extractors: Sequence[Extractor]
) -> Iterator[tuple[str, SetMetric]]:
    """Yields the metric of each extractor that it can use, with its name in reports."""
    if name in FRAME_METRICS:
        extractors = [x for x in extractors if x.frames is None]
        if not extractors:
            raise UserError(
                f"metric {name!r} needs features of frames, such as --features "
                "clip:FOLDER"
            )
    for extractor in extractors:
        known = PUBLISHED.get((name, extractor.name), f"{name}/{extractor.name}")
        yield known, _of_extractor(known, name, extractor)


def _of_extractor(known: str, name: str, extractor: Extractor | None) -> SetMetric:
    if known == "kid":  # its samples are images, so a clip counts with one frame
        return MMD(extractor=extractor, frames=1)
    return FEATURE_METRICS[name](extractor)


def metric_of_rows(name: str) -> SetMetric:
    """Returns the metric of a name in reports, which can compute stored rows.

    Raises:
        UserError: an unknown name.
    """
    for (metric, _), known in PUBLISHED.items():
        if name == known:
            return _of_extractor(known, metric, None)
    base = name.partition("/")[0]
    if base in FEATURE_METRICS:
        return _of_extractor(name, base, None)
    models = {needed: None for needed, _ in NETWORK_METRICS.values()}
    return _made(name, Networks(models=models))[name]
