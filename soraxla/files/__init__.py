"""Files that are not media: safetensors, hubs and hashes."""
