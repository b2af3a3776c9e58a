"""Files other than media: safetensors, model hubs, hashes and atomic folders."""
