"""Pure functions on arrays, without Flax or configuration."""
