"""The parts of tools/benchmark.py: cases, sides, timing, and what is written about them."""
