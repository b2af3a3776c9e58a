"""Device meshes, several processes, and compiler options."""
