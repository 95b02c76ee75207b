"""Score a system, or somebody's outputs, on many test sets."""
