"""Generation of videos from requests: tasks, condition latents, batching, blending."""
