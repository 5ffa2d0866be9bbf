"""The configs of corl_jax, importable as ``corl_jax.configs``: a config of your own starts from one of them."""
