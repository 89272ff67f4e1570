"""Repositories on the Hugging Face Hub: model cards, what a repository holds, and uploading it."""
