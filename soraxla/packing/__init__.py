"""Packed rows: patches, conditioning, and which clips share a row."""
