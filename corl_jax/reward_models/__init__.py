"""Networks that judge: one folder each, with its modules, its weights' names, its tokenizer and its wrapper."""
