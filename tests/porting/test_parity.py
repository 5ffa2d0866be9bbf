"""Numbers of every part against transformers' torch Janus, same weights, float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from corl_jax.models.janus.config import JANUS_PRO_1B
from corl_jax.porting.janus.folder import load_config


@pytest.fixture
def images(pair, rng):
    side = pair.cfg.vision.image_size
    return rng.uniform(-1, 1, (2, side, side, 3)).astype(np.float32)


def nchw(torch, images):
    return torch.from_numpy(images.transpose(0, 3, 1, 2).copy())


def run_text(model, tokens, images, mask, image_id):
    """Trunk over left-padded prompts; states and text logits."""
    length = tokens.shape[1]
    positions = jnp.maximum(jnp.cumsum(mask, 1) - 1, 0)
    visible = jnp.tril(jnp.ones((length, length), bool))[None] & mask[:, None]
    states, _ = model.language_model(
        model.embed_prompt(tokens, images, image_id), positions, visible
    )
    return states, model.text_logits(states)


def test_config_is_read_as_torch_wrote_it(pair):
    assert pair.cfg == pair.wanted


def test_vision_and_aligner(pair, torch, images, assert_close):
    with torch.no_grad():
        theirs = pair.theirs.model.get_image_features(nchw(torch, images)).pooler_output
    assert_close(jax.jit(lambda m, x: m.embed_images(x))(pair.ours, images), theirs)


def test_logits_of_left_padded_prompts_with_pictures(
    pair, torch, images, tokenizer, rng, assert_close
):
    tokens_per_image = pair.cfg.image_tokens
    length = tokens_per_image + 12
    tokens = rng.integers(8, pair.cfg.decoder.vocab_size, (2, length))
    mask = np.ones((2, length), bool)
    mask[1, :5] = False
    tokens[0, 2 : 2 + tokens_per_image] = tokenizer.image_id
    tokens[1, 7 : 7 + tokens_per_image] = tokenizer.image_id
    with torch.no_grad():
        theirs = pair.theirs.model(
            input_ids=torch.from_numpy(tokens),
            pixel_values=nchw(torch, images),
            attention_mask=torch.from_numpy(mask.astype(np.int64)),
            position_ids=torch.from_numpy(np.maximum(np.cumsum(mask, 1) - 1, 0)),
        ).last_hidden_state
        text, image = pair.theirs.lm_head(theirs), pair.theirs.model.generation_head(theirs)
    states, logits = jax.jit(run_text, static_argnums=4)(
        pair.ours, tokens, images, mask, tokenizer.image_id
    )
    assert_close(states[mask], theirs[mask])
    assert_close(logits[mask], text[mask])
    assert_close(pair.ours.image_logits(states)[mask], image[mask])


def test_embeddings_of_image_tokens(pair, torch, rng, assert_close):
    codes = rng.integers(0, pair.cfg.image_tokenizer.codebook_size, (2, 9))
    with torch.no_grad():
        theirs = pair.theirs.prepare_embeddings_for_image_generation(torch.from_numpy(codes))
    assert_close(pair.ours.embed_image_tokens(codes), theirs)


def test_pictures_to_codes(pair, torch, images, assert_close):
    tokenizer = pair.theirs.model.vqmodel
    with torch.no_grad():
        latents = tokenizer.quant_conv(tokenizer.encoder(nchw(torch, images)))
        codes = tokenizer.encode(nchw(torch, images)).image_tokens.reshape(2, -1).numpy()
    ours = jax.jit(lambda t, x: (t.latents(x), t.encode(x)))(pair.ours.image_tokenizer, images)
    assert_close(ours[0], latents.permute(0, 2, 3, 1))
    np.testing.assert_array_equal(ours[1], codes)
    assert len(set(codes.ravel().tolist())) > 4


def test_codes_to_pictures(pair, torch, rng, assert_close):
    codes = rng.integers(0, pair.cfg.image_tokenizer.codebook_size, (2, pair.cfg.image_tokens))
    with torch.no_grad():
        theirs = pair.theirs.decode_image_tokens(torch.from_numpy(codes))
    assert_close(jax.jit(lambda t, c: t.decode(c))(pair.ours.image_tokenizer, codes), theirs)


def test_rows_of_the_codebook_need_not_be_of_unit_norm_to_decode(pair, torch, rng, assert_close):
    """Both sides normalise the rows that they look up."""
    codes = rng.integers(0, pair.cfg.image_tokenizer.codebook_size, (1, pair.cfg.image_tokens))
    row = pair.theirs.model.vqmodel.quantize.embedding.weight
    lengths = torch.linspace(0.5, 2, row.shape[0])[:, None]
    with torch.no_grad():
        row.mul_(lengths)
        theirs = pair.theirs.model.vqmodel.quantize.get_codebook_entry(
            torch.from_numpy(codes)
        ).permute(0, 2, 3, 1)
        row.div_(lengths)
    book = pair.ours.image_tokenizer.quantize
    scaled = jax.tree.map(lambda leaf: leaf * lengths.numpy(), book)
    side = pair.cfg.image_grid
    assert_close(scaled.lookup(jnp.asarray(codes).reshape(1, side, side)), theirs)


def test_config_of_the_released_model_as_transformers_writes_it(torch, tmp_path):
    from transformers import JanusConfig, LlamaConfig

    text = LlamaConfig(vocab_size=102400, hidden_size=2048, num_hidden_layers=24, num_attention_heads=16,
                       intermediate_size=5632, max_position_embeddings=16384)  # fmt: skip
    JanusConfig(text_config=text, tie_word_embeddings=False).save_pretrained(tmp_path)
    assert load_config(tmp_path) == JANUS_PRO_1B
