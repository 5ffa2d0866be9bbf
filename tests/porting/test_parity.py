"""Every part of the model equals the torch Janus of transformers, same weights, float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from corl_jax.models.janus.config import JANUS_PRO_1B
from corl_jax.porting.janus.folder import load_config


@pytest.fixture
def images(model_pair, rng):
    side = model_pair.cfg.vision.image_size
    return rng.uniform(-1, 1, (2, side, side, 3)).astype(np.float32)


def nchw(torch, images):
    return torch.from_numpy(images.transpose(0, 3, 1, 2).copy())


def run_text(model, tokens, images, mask, image_id):
    """Hidden states and text logits of left-padded prompts."""
    length = tokens.shape[1]
    positions = jnp.maximum(jnp.cumsum(mask, 1) - 1, 0)
    visible = jnp.tril(jnp.ones((length, length), bool))[None] & mask[:, None]
    states, _ = model.language_model(
        model.embed_prompt(tokens, images, image_id), positions, visible
    )
    return states, model.text_logits(states)


def test_config_is_read_as_transformers_wrote_it(model_pair):
    assert model_pair.cfg == model_pair.expected_cfg


def test_vision_and_aligner(model_pair, torch, images, assert_close):
    with torch.no_grad():
        expected = model_pair.torch_model.model.get_image_features(
            nchw(torch, images)
        ).pooler_output
    embeddings = jax.jit(lambda model, x: model.embed_images(x))(model_pair.model, images)
    assert_close(embeddings, expected)


def test_logits_of_left_padded_prompts_with_images(
    model_pair, torch, images, tokenizer, rng, assert_close
):
    tokens_per_image = model_pair.cfg.image_tokens
    length = tokens_per_image + 12
    tokens = rng.integers(8, model_pair.cfg.decoder.vocab_size, (2, length))
    mask = np.ones((2, length), bool)
    mask[1, :5] = False
    tokens[0, 2 : 2 + tokens_per_image] = tokenizer.image_id
    tokens[1, 7 : 7 + tokens_per_image] = tokenizer.image_id
    with torch.no_grad():
        expected_states = model_pair.torch_model.model(
            input_ids=torch.from_numpy(tokens),
            pixel_values=nchw(torch, images),
            attention_mask=torch.from_numpy(mask.astype(np.int64)),
            position_ids=torch.from_numpy(np.maximum(np.cumsum(mask, 1) - 1, 0)),
        ).last_hidden_state
        expected_text = model_pair.torch_model.lm_head(expected_states)
        expected_image = model_pair.torch_model.model.generation_head(expected_states)

    states, logits = jax.jit(run_text, static_argnums=4)(
        model_pair.model, tokens, images, mask, tokenizer.image_id
    )
    assert_close(states[mask], expected_states[mask])
    assert_close(logits[mask], expected_text[mask])
    assert_close(model_pair.model.image_logits(states)[mask], expected_image[mask])


def test_embeddings_of_image_tokens(model_pair, torch, rng, assert_close):
    codebook_size = model_pair.cfg.image_tokenizer.codebook_size
    codes = rng.integers(0, codebook_size, (2, 9))
    with torch.no_grad():
        expected = model_pair.torch_model.prepare_embeddings_for_image_generation(
            torch.from_numpy(codes)
        )
    assert_close(model_pair.model.embed_image_tokens(codes), expected)


def test_images_to_codes(model_pair, torch, images, assert_close):
    tokenizer = model_pair.torch_model.model.vqmodel
    with torch.no_grad():
        encoded = tokenizer.quant_conv(tokenizer.encoder(nchw(torch, images)))
        expected_codes = tokenizer.encode(nchw(torch, images)).image_tokens.reshape(2, -1).numpy()
    latents, codes = jax.jit(lambda t, x: (t.latents(x), t.encode(x)))(
        model_pair.model.image_tokenizer, images
    )
    assert_close(latents, encoded.permute(0, 2, 3, 1))
    np.testing.assert_array_equal(codes, expected_codes)
    assert len(set(expected_codes.ravel().tolist())) > 4


def test_codes_to_images(model_pair, torch, rng, assert_close):
    codebook_size = model_pair.cfg.image_tokenizer.codebook_size
    codes = rng.integers(0, codebook_size, (2, model_pair.cfg.image_tokens))
    with torch.no_grad():
        expected = model_pair.torch_model.decode_image_tokens(torch.from_numpy(codes))
    images = jax.jit(lambda t, c: t.decode(c))(model_pair.model.image_tokenizer, codes)
    assert_close(images, expected)


def test_rows_of_the_codebook_need_not_be_of_unit_norm_to_decode(
    model_pair, torch, rng, assert_close
):
    """corl_jax and transformers both normalize the rows that they look up."""
    codebook_size = model_pair.cfg.image_tokenizer.codebook_size
    codes = rng.integers(0, codebook_size, (1, model_pair.cfg.image_tokens))
    quantizer = model_pair.torch_model.model.vqmodel.quantize
    weight = quantizer.embedding.weight
    lengths = torch.linspace(0.5, 2, weight.shape[0])[:, None]

    # The torch model is shared with other tests, so its codebook is restored.
    with torch.no_grad():
        weight.mul_(lengths)
        expected = quantizer.get_codebook_entry(torch.from_numpy(codes)).permute(0, 2, 3, 1)
        weight.div_(lengths)

    codebook = model_pair.model.image_tokenizer.quantize
    scaled = jax.tree.map(lambda leaf: leaf * lengths.numpy(), codebook)
    side = model_pair.cfg.image_grid
    assert_close(scaled.lookup(jnp.asarray(codes).reshape(1, side, side)), expected)


def test_config_of_the_released_model_as_transformers_writes_it(torch, tmp_path):
    from transformers import JanusConfig, LlamaConfig

    text = LlamaConfig(
        vocab_size=102400,
        hidden_size=2048,
        num_hidden_layers=24,
        num_attention_heads=16,
        intermediate_size=5632,
        max_position_embeddings=16384,
    )
    JanusConfig(text_config=text, tie_word_embeddings=False).save_pretrained(tmp_path)
    assert load_config(tmp_path) == JANUS_PRO_1B
