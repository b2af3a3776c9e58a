"""Import and export of public Wan weights: diffusers' folders and Wan's files."""

from soraxla.checkpoints.wan.convert import export_wan, import_wan, load_wan

__all__ = ["export_wan", "import_wan", "load_wan"]
