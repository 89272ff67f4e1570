"""EfficientTAM inside annotation tools: a machine learning backend for Label Studio, and functions for CVAT."""
