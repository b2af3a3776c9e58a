"""Diffusion: noise schedule → process → loss; guidance → solver → sampler."""
