"""Device meshes, process groups and compiler options."""
