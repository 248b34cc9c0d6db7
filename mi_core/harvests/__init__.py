"""Activations over a corpus, on disk: corpora, windows, shards, the harvest itself, and reading it back."""
