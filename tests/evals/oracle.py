"""A stand-in for the sampler that knows the right pictures and answers, and errs where it is told to."""

from __future__ import annotations

import types

import numpy as np

from corl_jax.core.types import Rollout


class Oracle:
    """Looks prompts up among ``records``; ``wrong``: ids of the records that it gets wrong, ``bare``: without tags."""

    cfg = types.SimpleNamespace(image_tokens=36, vision=types.SimpleNamespace(image_size=48))

    def __init__(self, records, tokenizer, wrong=(), bare=()):
        self.tokenizer, self.wrong, self.bare, self.calls = tokenizer, set(wrong), set(bare), []
        self.by_drawing = {tuple(tokenizer.drawing_prompt(r.prompt)): r for r in records}
        self.by_question = {
            (tuple(tokenizer.question_prompt(r.question, 36)), r.image.tobytes()): r
            for r in records
        }

    def sampling(self, modality, **settings):
        return settings

    def draw(self, params, prompts, keys, sampling, guided):
        self.calls.append((len(prompts.tokens), sampling["guidance"], guided))
        pixels = []
        for row, mask in zip(prompts.tokens, prompts.mask, strict=True):
            record = self.by_drawing[tuple(row[mask])]
            pixels.append(
                np.full_like(record.image, 238) if record.id in self.wrong else record.image
            )
        pixels = np.repeat(np.stack(pixels)[:, None], keys.shape[1], 1)
        tokens = np.zeros((*keys.shape, 36), np.int32)
        return Rollout(tokens, tokens == 0, np.zeros(tokens.shape, np.float32), pixels, "image")

    def write(self, params, prompts, keys, sampling, length):
        self.calls.append((len(prompts.tokens), sampling["temperature"], length))
        tokens = np.full((len(prompts.tokens), 1, length), self.tokenizer.pad_id, np.int32)
        images = np.round((prompts.images + 1) / 2 * 255).astype(np.uint8)
        for i, (row, mask) in enumerate(zip(prompts.tokens, prompts.mask, strict=True)):
            record = self.by_question[(tuple(row[mask]), images[i].tobytes())]
            answer = "nothing" if record.id in self.wrong else record.answer
            text = (
                answer
                if record.id in self.bare
                else f"<think> {answer} </think> <answer> {answer} </answer>"
            )
            ids = [*self.tokenizer.encode(text), self.tokenizer.eos_id]
            tokens[i, 0, : len(ids)] = ids
        mask = (
            np.cumsum(tokens == self.tokenizer.eos_id, -1) - (tokens == self.tokenizer.eos_id) == 0
        )
        return Rollout(tokens, mask, np.zeros(tokens.shape, np.float32), None, "text")
