"""Restoring images with a trained model."""
