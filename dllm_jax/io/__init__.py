"""What a run reads and writes: checkpoints, metrics, its directory."""
