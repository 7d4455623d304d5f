"""Layers that are no product of signs with signs: stored as codes; summed plane by plane, looked up, or expanded."""
