"""The library as a part of other programs."""
