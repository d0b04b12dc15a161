"""Where host and device meet: prompts, decoding, text, verification, batches."""
