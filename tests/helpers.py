"""Functions that tests of several rooms use."""

from __future__ import annotations

import json


def apply_update(update, state, batch):
    """One update of a whole train state: the next state, and metrics.

    Args:
      update: from ``engine.update.make_update``.
    """
    next_state, metrics = update(state.with_frozen({}), state.frozen, batch)
    return next_state.with_frozen(state.frozen), metrics


def train_and_stop(config, workdir, steps):
    """Trains ``steps`` steps and stops as a killed run does: without a checkpoint of its own."""
    from corl_jax.engine.loop import train
    from corl_jax.stages.run import prepare

    results = train(prepare(config, workdir))
    assert [next(results).step for _ in range(steps)] == list(range(1, steps + 1))
    results.close()


def metric_rows(workdir):
    """The rows of a run's ``metrics.jsonl`` without the columns that say how long a step took."""
    rows = map(json.loads, (workdir / "metrics.jsonl").read_text("utf-8").splitlines())
    return list(map(without_times, rows))


def without_times(metrics):
    """Metrics without those that say how long something took."""
    return {name: value for name, value in metrics.items() if not name.startswith("time/")}


def dot_config():
    """The sizes of the smallest policy, whose images are 16 pixels a side in 4 tokens."""
    from corl_jax.models.janus.config import ImageTokenizerConfig, JanusConfig, VisionConfig
    from corl_jax.models.language_model import DecoderConfig

    vision = VisionConfig(image_size=16, patch_size=8, width=32, depth=1, heads=2, mlp_dim=32)
    decoder = DecoderConfig(
        vocab_size=72,
        width=32,
        depth=2,
        heads=2,
        kv_heads=2,
        head_size=16,
        mlp_dim=64,
        max_length=128,
    )
    image_tokenizer = ImageTokenizerConfig(
        codebook_size=32,
        code_dim=8,
        latent_channels=32,
        base_channels=32,
        channel_multipliers=(1, 1, 1, 1),
        res_blocks=0,
    )
    return JanusConfig(vision, decoder, image_tokenizer, gen_head_dim=32)


def write_untrained_policy(cfg, folder, seed=0, write_tokenizer=None):
    """A Hugging Face folder with random parameters and the tokenizer of the embedded world.

    ``write_tokenizer`` writes another one.
    """
    from corl_jax.data.shapes import vocabulary
    from corl_jax.models.janus.model import abstract
    from corl_jax.models.random_params import random_params
    from corl_jax.porting.writer import save_folder

    write_tokenizer = write_tokenizer or vocabulary.write_tokenizer
    tokenizer = write_tokenizer(folder.with_name(f"{folder.name}_tokenizer"))
    save_folder(random_params(abstract(cfg), seed), cfg, tokenizer, folder)
    return folder


def byte_tokenizer():
    """A tokenizer that reads any text: one token per byte, and the special tokens of Janus."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers

    from corl_jax.data.prompts import JANUS_TEMPLATE

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: i for i, letter in enumerate(letters)}
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [tokenizers.AddedToken(token, normalized=False) for token in JANUS_TEMPLATE.special_tokens]
    )
    return tokenizer


def write_byte_tokenizer(folder):
    """The files of ``byte_tokenizer``; returns the folder."""
    from corl_jax.data.text_tokenizer import TextTokenizer
    from corl_jax.data.tokenizer_export import export_tokenizer

    tokenizer = byte_tokenizer()
    folder.mkdir(parents=True)
    content = tokenizer.to_str(pretty=True)
    export_tokenizer(TextTokenizer(tokenizer), content, {"model_max_length": 4096}, folder)
    return folder
