"""Checkpoints: model folders, training folders and public weights."""
