"""Video: containers, colour, the threaded pipeline, and the checks around them."""
