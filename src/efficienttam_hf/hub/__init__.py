"""Repositories on the Hugging Face Hub: model cards, the content of a repository, and its upload."""
