"""Run configurations: each file defines `get_config(preset)`."""
