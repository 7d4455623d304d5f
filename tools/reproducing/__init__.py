"""The published runs that tools/reproduce.py repeats."""
