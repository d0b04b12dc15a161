"""Model folders in Hugging Face's layout: read, written, downloaded."""
