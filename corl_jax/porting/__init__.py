"""Foreign checkpoints in and out: tables of names, readers and writers of Hugging Face folders."""
