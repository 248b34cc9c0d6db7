"""One file for each format of checkpoints: what it stores, in which layout, and what it leaves unsaid."""
