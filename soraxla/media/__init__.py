"""Video and image files: read, write, and contact sheets."""
