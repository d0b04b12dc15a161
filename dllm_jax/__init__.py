"""RL post-training and fast decoding for diffusion language models."""
