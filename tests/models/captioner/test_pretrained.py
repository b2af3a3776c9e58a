"""Pretrained towers over packed frames: pixels as they were trained on, one a time."""

import jax
import numpy as np
import pytest

from data_pipelines.view import View, segment
from soraxla.core.config import build, to_dict
from soraxla.core.older_settings import filled
from soraxla.models import captioner
from soraxla.models.captioner import CaptionerConfig, pretrained
from soraxla.models.text import clip_vision
from soraxla.models.text.clip_vision import CLIPVisionConfig
from soraxla.models.vision import dinov2, vit
from soraxla.models.vision.dinov2 import Dinov2Config
from soraxla.models.vision.resize import IMAGENET_MEAN, IMAGENET_STD
from soraxla.packing.pack import PackConfig, pack
from soraxla.parallel.mesh import one_device, param_shardings
from tests.tiny import quick, random_like

CLIP = CLIPVisionConfig(
    hidden_size=16,
    intermediate_size=16,
    num_attention_heads=2,
    num_hidden_layers=1,
    projection_dim=8,
    image_size=16,
    patch_size=8,
)
DINO = Dinov2Config(
    hidden_size=16,
    num_hidden_layers=1,
    num_attention_heads=2,
    image_size=112,
    patch_size=56,
)


def by_itself(params, cfg, frame):
    """Returns the states of a frame that was prepared as the tower's own images are."""
    if isinstance(cfg, CLIPVisionConfig):
        pixels = clip_vision.preprocess([frame], cfg.image_size)
        patches = vit.tubelets(pixels[:, None], 1, cfg.patch_size)
        return clip_vision.patch_states(params, cfg, patches)[0]
    pixels = (frame.astype(np.float32) / 255 - IMAGENET_MEAN) / IMAGENET_STD
    patches = vit.tubelets(pixels[None, None], 1, cfg.patch_size)
    side = len(frame) // cfg.patch_size
    return dinov2.patch_states(params, cfg, patches, (side, side))[0]


@pytest.mark.slow
@pytest.mark.parametrize("cfg", [CLIP, DINO], ids=["clip", "dinov2"])
def test_packed_frames_have_the_states_of_each_frame_by_itself(cfg):
    view = pretrained.view_of(cfg, 2)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (2, view.side, view.side, 3), np.uint8)
    made = segment(View(pixels, np.arange(2.0)), view, np.zeros((1, 2)))
    tokens = view.most_tokens
    room = PackConfig(row_length=tokens + 1, text_length=1, max_segments=1)
    batch = pack([[made]], room)
    shapes = jax.eval_shape(lambda: pretrained.init(jax.random.key(0), cfg))
    params = random_like(shapes)
    found = quick(lambda x: pretrained.states(params, cfg, x))(batch.latents)
    assert found.shape == (1, tokens + 1, 16)
    for i, frame in enumerate(pixels):
        own = slice(i * tokens // 2, (i + 1) * tokens // 2)
        expected = by_itself(params, cfg, frame)
        np.testing.assert_allclose(found[0, own], expected, atol=2e-5)


@pytest.mark.parametrize("tower", [CLIP, DINO, None], ids=["clip", "dinov2", "none"])
def test_recorded_settings_are_read_with_the_tower_that_they_have(tower):
    sizes = {"tower_layers": 0, "layers": 1, "width": 16, "heads": 2, "mlp_width": 16}
    cfg = CaptionerConfig(**sizes, words=(" a",), pretrained=tower)
    record = to_dict(cfg)
    assert build(CaptionerConfig, filled(CaptionerConfig, record)) == cfg


@pytest.mark.slow
def test_a_tower_fixes_the_view_and_its_parameters_have_rules():
    view = pretrained.view_of(CLIP, 3)
    assert (view.side, view.patch, view.square, view.frames) == (16, 8, True, 3)
    assert pretrained.view_of(DINO, 1).side == 224
    cfg = CaptionerConfig(
        tower_layers=0, layers=1, width=16, heads=2, mlp_width=16, pretrained=CLIP
    )
    shapes = jax.eval_shape(lambda: captioner.init(jax.random.key(0), cfg))
    assert shapes["pretrained"]["patches"]["kernel"].shape == (192, 16)
    assert shapes["patch_embed"]["kernel"].shape == (16, 16)
    param_shardings(shapes, captioner.rules(cfg), one_device())  # refuses a lack
