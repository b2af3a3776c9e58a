"""Engines of packed attention: one interface, one file a platform."""
