"""Text encoders: prompts in, token embeddings out."""

from soraxla.models.text.encoder import TextEncoder, load_text_encoder

__all__ = ["TextEncoder", "load_text_encoder"]
