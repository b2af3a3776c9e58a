"""Requests to videos: tasks, condition latents, batching, blending."""
