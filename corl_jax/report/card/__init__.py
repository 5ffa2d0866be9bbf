"""The card of a model: what is known of a policy and of its run, as Markdown with metadata."""
