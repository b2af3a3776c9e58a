"""Worlds whose truth is known: each clip comes with the exact state behind it."""
