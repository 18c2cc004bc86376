"""Alignment: losses, log-probabilities, the moving reference, and the trainers that join them."""
