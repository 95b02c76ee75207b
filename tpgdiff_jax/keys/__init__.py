"""The table of the configuration: every key with its default, what it may be, and what it means."""
