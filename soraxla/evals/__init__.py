"""Evaluations: measures of the quality of a model."""
