"""Model folders, training folders and public weights."""
