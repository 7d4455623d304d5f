"""One run of a network written down, and carried out again without the network's own code."""
