"""Weights and their config.json: what one says and the other lacks is refused."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file

from soraxla.checkpoints.wan.convert import open_transformer
from soraxla.checkpoints.wan.families import dit_config_of
from soraxla.core.errors import UserError

WAN = Path(__file__).parents[2] / "golden" / "wan21"


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(WAN, tmp_path / "wan")


def without_last_block(folder):
    """A download that lacks its last files, and the index too."""
    part = folder / "transformer"
    next(part.glob("*.index.json")).unlink()
    for path in part.glob("*.safetensors"):
        tensors = load_file(path)
        kept = {k: v for k, v in tensors.items() if not k.startswith("blocks.2.")}
        save_file(kept, path)


def says(**changes):
    def edit(folder):
        path = folder / "transformer" / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return edit


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (without_last_block, "config.json says num_layers = 3, the weights have 2"),
        (says(num_layers=30), "num_layers = 30, the weights have 3"),
        (says(ffn_dim=7), "ffn_dim = 7, the weights have"),
        (says(_class_name="WanVACETransformer3DModel"), "_class_name = 'WanVACE"),
        (says(qk_norm=None), "qk_norm = None, and only 'rms_norm_across_heads'"),
        (says(cross_attn_norm=False), "cross_attn_norm = False"),
    ],
)
def test_weights_that_are_not_those_of_the_config_are_refused(folder, damage, message):
    damage(folder)
    with pytest.raises(UserError, match=message) as error:
        open_transformer(folder)
    assert "\n" not in str(error.value)


def test_a_bare_file_that_lacks_blocks_is_refused():
    """Shapes of Wan 2.1 1.3B with 28 of its 30 blocks."""
    shapes = {
        "patch_embedding.weight": (1536, 16, 1, 2, 2),
        "proj_out.weight": (64, 1536),
        "blocks.0.ffn.net.0.proj.weight": (8960, 1536),
        "blocks.27.attn1.to_q.weight": (1536, 1536),
        "condition_embedder.text_embedder.linear_1.weight": (1536, 4096),
        "condition_embedder.time_embedder.linear_1.weight": (1536, 256),
    }
    with pytest.raises(UserError, match="has 28 of the 30 blocks of a Wan"):
        dit_config_of(shapes, {}, Path("a"), shift=None)
    whole = {**shapes, "blocks.29.attn1.to_q.weight": (1536, 1536)}
    assert dit_config_of(whole, {}, Path("a"), shift=None).layers == 30
    other = {"condition_embedder.time_embedder.linear_1.weight": (1536, 512)}
    with pytest.raises(UserError, match="its freq_dim is 512, and only 256"):
        dit_config_of(whole | other, {}, Path("a"), shift=None)
