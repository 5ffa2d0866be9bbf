"""A stand-in for ``PolicyFns`` that knows the correct images and answers, and errs on request."""

from __future__ import annotations

import types

import numpy as np

from corl_jax.core.types import Rollout


class Oracle:
    """Looks up the record that belongs to a prompt and returns its image or its answer.

    Args:
      records: the records that prompts may be about.
      tokenizer: text tokenizer.
      incorrect: ids of the records whose image and answer are incorrect.
      bare: ids of the records that are answered without tags.

    Attributes:
      calls: for images the rows, the guidance scale and ``guided``; for text the rows, the
        temperature and the length.
    """

    cfg = types.SimpleNamespace(image_tokens=36, image_size=48)

    def __init__(self, records, tokenizer, incorrect=(), bare=()):
        self.tokenizer, self.calls = tokenizer, []
        self.incorrect, self.bare = set(incorrect), set(bare)
        self.by_image_prompt = {
            tuple(tokenizer.image_generation_prompt(record.prompt)): record for record in records
        }
        self.by_question = {}
        for record in records:
            prompt = tuple(tokenizer.question_prompt(record.question, self.cfg.image_tokens))
            self.by_question[prompt, record.image.tobytes()] = record

    def sampling_params(self, modality, **params):
        return params

    def sample_images(self, params, prompts, keys, sampling, guided):
        self.calls.append((len(prompts.tokens), sampling["guidance"], guided))
        images = []
        for row, mask in zip(prompts.tokens, prompts.mask, strict=True):
            record = self.by_image_prompt[tuple(row[mask])]
            blank = np.full_like(record.image, 238)
            images.append(blank if record.id in self.incorrect else record.image)

        pixels = np.repeat(np.stack(images)[:, None], keys.shape[1], 1)
        tokens = np.zeros((*keys.shape, 36), np.int32)
        return Rollout(tokens, tokens == 0, np.zeros(tokens.shape, np.float32), pixels, "image")

    def sample_text(self, params, prompts, keys, sampling, length):
        self.calls.append((len(prompts.tokens), sampling["temperature"], length))
        tokens = np.full((len(prompts.tokens), 1, length), self.tokenizer.pad_id, np.int32)
        images = np.round((prompts.images + 1) / 2 * 255).astype(np.uint8)
        for i, (row, mask) in enumerate(zip(prompts.tokens, prompts.mask, strict=True)):
            record = self.by_question[tuple(row[mask]), images[i].tobytes()]
            text = "nothing" if record.id in self.incorrect else record.answer
            if record.id not in self.bare:
                text = f"<think> {text} </think> <answer> {text} </answer>"
            ids = [*self.tokenizer.encode(text), self.tokenizer.eos_id]
            tokens[i, 0, : len(ids)] = ids[:length]

        # True up to and including the first end token.
        is_end = tokens == self.tokenizer.eos_id
        mask = np.cumsum(is_end, -1) - is_end == 0
        return Rollout(tokens, mask, np.zeros(tokens.shape, np.float32), None, "text")
