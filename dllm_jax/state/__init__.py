"""What a run writes: checkpoints, metrics, its directory."""
