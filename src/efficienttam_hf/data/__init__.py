"""Training data: datasets in one schema, clips sampled from them, and synthetic videos."""
