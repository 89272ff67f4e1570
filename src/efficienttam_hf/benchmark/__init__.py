"""Compares the speed of models: `efficienttam benchmark`."""
