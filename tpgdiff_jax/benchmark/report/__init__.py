"""What a benchmark shows of its rows."""
