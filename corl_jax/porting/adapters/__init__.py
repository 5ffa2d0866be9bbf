"""Low-rank adapters as PEFT stores them: ``adapter_config.json`` and ``adapter_model.safetensors``."""
