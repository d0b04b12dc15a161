"""Functions from arrays to arrays: no Flax, no configuration."""
