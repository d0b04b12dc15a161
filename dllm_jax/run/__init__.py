"""A whole run, from its config to its results."""
