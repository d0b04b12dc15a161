"""Host-only text handling: tokenizers."""
