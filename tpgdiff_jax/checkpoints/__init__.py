"""Checkpoints: our own runs, and weights from the released PyTorch program."""
