"""Training data: every dataset to one schema, clips sampled from it, and synthetic videos."""
