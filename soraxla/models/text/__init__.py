"""Text encoders: functions from prompts to token embeddings."""

from soraxla.models.text.encoder import TextEncoder, full_name, load_text_encoder

__all__ = ["TextEncoder", "full_name", "load_text_encoder"]
