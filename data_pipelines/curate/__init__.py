"""Curation: films in, a table of clips with scores and reasons out."""
