"""Learning: state, steps and the loop around them."""
