"""What a model knows of the world, measured in worlds whose truth is known."""
