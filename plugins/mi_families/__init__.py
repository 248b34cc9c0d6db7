"""One file for each Hugging Face ``model_type``: config to layers, checkpoint names to ours."""
