"""Layers that train: a float layer with a scheme inside, its threshold, and the adapters of its subclasses."""
