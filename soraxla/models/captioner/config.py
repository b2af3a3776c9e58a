"""Settings of the captioner."""

from dataclasses import dataclass, field
from typing import Literal

from data_pipelines.view import ViewConfig
from soraxla.core.errors import UserError
from soraxla.models.captioner.vocabulary import Vocabulary
from soraxla.models.text.clip_vision import CLIPVisionConfig
from soraxla.models.vision.dinov2 import Dinov2Config


@dataclass(frozen=True, kw_only=True)
class CaptionerConfig:
    """The settings of a captioner: a tower over frames, and a decoder of text.

    Attributes:
        tower_layers: transformer blocks over all frames of a clip together.
        layers: blocks of the text decoder.
        width: channels of a token.
        heads: attention heads.
        mlp_width: hidden units of a block's MLP.
        view: the frames that it sees.
        stem: channels of convolutions over the pixels of a token, before its embedding
            (arXiv 2106.14881); empty embeds the pixels themselves.
        pretrained: settings of a CLIP or DINOv2 tower, which embeds each frame in front
            of the blocks; taken from the folder of --init. None reads pixels.
        max_words: most words of the vocabulary, which is taken from the captions of the
            training; other words are spelt in bytes.
        words: the vocabulary.
        max_tokens: most tokens of a caption; longer ones are cut in training.
        dtype: of activations and matmuls; parameters are always fp32.
    """

    tower_layers: int
    layers: int
    width: int
    heads: int
    mlp_width: int
    view: ViewConfig = field(default_factory=ViewConfig)
    stem: tuple[int, ...] = ()
    pretrained: CLIPVisionConfig | Dinov2Config | None = None
    max_words: int = 8192
    words: tuple[str, ...] = ()
    max_tokens: int = 64
    dtype: Literal["bfloat16", "float32"] = "bfloat16"

    def __post_init__(self) -> None:
        for name in ("layers", "width", "heads", "mlp_width", "max_tokens"):
            if getattr(self, name) < 1:
                raise UserError(
                    f"captioner {name} is {getattr(self, name)}: expected ≥ 1"
                )
        fold = 2 ** (1 + len(self.stem))  # the first convolution sees blocks of 4
        if self.stem and (self.pretrained is not None or self.view.window % fold):
            raise UserError(
                f"captioner stem {self.stem}: expected none over a pretrained tower, "
                f"and else a multiple of {fold} for view.patch + 2 view.margin, which "
                f"is {self.view.window}; change stem or view"
            )
        if min(self.tower_layers, self.max_words) < 0:
            raise UserError("captioner tower_layers and max_words: expected ≥ 0")
        if self.width % self.heads or self.head_dim % 2 or self.head_dim < 6:
            raise UserError(
                f"captioner width {self.width} with {self.heads} heads: expected an "
                "even head dim of at least 6; change width or heads"
            )

    @property
    def head_dim(self) -> int:
        return self.width // self.heads

    @property
    def vocabulary(self) -> Vocabulary:
        return Vocabulary(words=self.words)
