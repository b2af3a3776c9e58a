"""Engines of packed attention: one interface, one file per platform."""
