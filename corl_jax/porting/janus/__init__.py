"""The published layouts of Janus-Pro: tensor names, ``config.json`` and other small files."""
