"""What a run's folder is."""
