"""Public Wan weights, in and out: diffusers' folders and Wan's own files."""

from soraxla.checkpoints.wan.convert import export_wan, import_wan, load_wan

__all__ = ["export_wan", "import_wan", "load_wan"]
