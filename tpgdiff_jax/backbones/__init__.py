"""Encoders that look at images: frozen ones with public weights, and those we train from them."""
