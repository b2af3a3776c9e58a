"""WorldBench: a model's knowledge of the world, measured in simulated worlds."""
