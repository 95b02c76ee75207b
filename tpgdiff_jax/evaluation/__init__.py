"""Scores, and the jobs that compute them."""
