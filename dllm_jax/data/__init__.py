"""Host-only data: TFDS builders, public test files, row pipelines."""
