"""The ground: errors, files, locks, progress, JSON."""
