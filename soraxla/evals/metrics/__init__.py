"""Metrics of sets of clips, each in one file."""
