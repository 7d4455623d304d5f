"""Fixed-point formats, and a trained network computed in them, for tools/fixed_point.py."""
