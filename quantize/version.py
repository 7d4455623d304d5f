"""The version of xnorkit, readable without importing torch (the build reads it too)."""

__version__ = "0.2.0"
