"""The runs that tools/reproduce.py and tools/ablations.py make, and their logs."""
