"""Photos in, pairs of degraded and clean crops out."""
