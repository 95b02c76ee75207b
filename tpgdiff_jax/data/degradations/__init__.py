"""Ways to degrade a photograph, each a pure function of the image and its parameters."""
