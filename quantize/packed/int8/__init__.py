"""Float layers of a converted model on numbers of 8 bits, and what these cost on the images that calibrate them."""
