"""What was typed, and what then runs."""
