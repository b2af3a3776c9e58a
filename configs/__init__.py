"""The presets of `soraxla train`, installed as `soraxla.configs`; files to copy."""
