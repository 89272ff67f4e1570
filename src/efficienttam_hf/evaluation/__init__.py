"""Evaluation: how well masks are tracked."""
