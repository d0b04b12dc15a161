"""Host-only text handling: tokenizers and chat templates."""
