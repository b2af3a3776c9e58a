"""Makes `raft.npz`: the optical flow of torchvision's RAFT with drawn weights.

Run from the root with the peers of `peers.txt`, and torchvision:

    python -m tests.golden.make_raft
"""

import numpy as np
import torch
from torch import nn
from torchvision.models.optical_flow import raft

from tests.golden.raft import DIVISOR, FILE, frames, published, weights


def of(*widths: int) -> tuple[int, ...]:
    return tuple(width // DIVISOR for width in widths)


def main() -> None:
    model = raft._raft(
        weights=None,
        progress=False,
        feature_encoder_layers=of(64, 64, 96, 128, 256),
        feature_encoder_block=raft.ResidualBlock,
        feature_encoder_norm_layer=nn.InstanceNorm2d,
        context_encoder_layers=of(64, 64, 96, 128, 256),
        context_encoder_block=raft.ResidualBlock,
        context_encoder_norm_layer=nn.BatchNorm2d,
        corr_block_num_levels=4,
        corr_block_radius=4,
        motion_encoder_corr_layers=of(256, 192),
        motion_encoder_flow_layers=of(128, 64),
        motion_encoder_out_channels=of(128)[0],
        recurrent_block_hidden_state_size=of(128)[0],
        recurrent_block_kernel_size=((1, 5), (5, 1)),
        recurrent_block_padding=((0, 2), (2, 0)),
        flow_head_hidden_size=of(256)[0],
        use_mask_predictor=True,
    )
    model.mask_predictor = raft.MaskPredictor(
        in_channels=of(128)[0], hidden_size=of(256)[0]
    )
    state = model.state_dict()
    shapes = {
        published(name): tuple(value.shape)
        for name, value in state.items()
        if "num_batches" not in name
    }
    drawn = weights(shapes)
    found = {n: torch.tensor(drawn[published(n)]) for n in state if "num_" not in n}
    model.load_state_dict(state | found)
    model.eval()
    pictures = torch.tensor(frames()).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        flows = model(pictures[:-1], pictures[1:], num_flow_updates=5)
    np.savez_compressed(
        FILE,
        names=np.array(sorted(shapes)),
        shapes=np.array([str(shapes[name]) for name in sorted(shapes)]),
        flow=flows[-1].permute(0, 2, 3, 1)[:, ::3, ::3].numpy(),
    )


if __name__ == "__main__":
    main()
