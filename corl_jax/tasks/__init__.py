"""Ways of asking and reading back. A task is two verbs: ``ask`` (records to prompts) and ``read_back`` (rollout to
completions)."""
