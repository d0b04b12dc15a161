"""Where host and device meet: prompts, decoding, verification, batches."""
