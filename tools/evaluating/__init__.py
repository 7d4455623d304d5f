"""Trained networks in every file format that ships, for tools/evaluate.py and tools/moving_objects."""
