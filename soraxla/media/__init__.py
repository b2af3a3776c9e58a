"""Video and image files: reading, writing and contact sheets."""
