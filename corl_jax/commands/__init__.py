"""Commands beside training: ``corl sample``, ``ask``, ``evaluate``, ``report`` and others."""
