"""What rewards may ask of the policy: states of pictures and captions read together, and answers about pictures.

In: pictures, texts. Out: final states of the image span and of the caption span, found from the token layout; texts.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import numpy as np

from corl_jax.core.rng import sample_keys, stream
from corl_jax.core.sharding import Sharder
from corl_jax.core.trees import bind
from corl_jax.core.types import Params, Prompts
from corl_jax.data.images import preprocess
from corl_jax.data.text_tokenizer import TextTokenizer, left_pad
from corl_jax.sampling.generate import PolicyFns
from corl_jax.sampling.prompt_layout import prompt_mask, prompt_positions


@dataclasses.dataclass(frozen=True)
class RewardPolicyHandle:
    """A ``PolicyHandle`` over ``params``.

    Attributes:
      sampler, tokenizer, params: of the policy.
      prompt_length: the fixed width, or None for the next multiple of 8.
      sharder: where the rows are spread over a mesh; each process asks about its own.
      answer_length: tokens of an answer at most.
    """

    sampler: PolicyFns
    tokenizer: TextTokenizer
    params: Params
    prompt_length: int | None = None
    sharder: Sharder | None = None
    answer_length: int = 64

    def token_states(
        self, images: np.ndarray, texts: list[str]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """See ``core.types.PolicyHandle``; both spans come back over the whole prompt, with their masks.

        The caption span is exactly the caption's tokens: no template, no placeholder, at any padding (decisions 17).
        """
        asked = self._prompts(images, texts)
        states = self._own(prompt_states(self.sampler, self.params, self._put(asked)))
        ids, tokens, mask = self.sampler.ids, asked.tokens, asked.mask
        captions = np.zeros_like(mask)
        tail = len(self.tokenizer.encode(f"\n\n{self.tokenizer.assistant}:"))
        for i, text in enumerate(texts):
            end = tokens.shape[1] - tail
            captions[i, end - len(self.tokenizer.encode(text.strip())) : end] = True
        return states, tokens == ids.image, states, captions

    def answers(self, images: np.ndarray, questions: list[str]) -> list[str]:
        """See ``core.types.PolicyHandle``."""
        sampling = self.sampler.sampling("text", temperature=0.0)
        prompts = self._put(self._prompts(images, questions))
        keys = sample_keys(stream(0, "answers", 0), len(prompts.tokens))[:, None]
        rollout = self.sampler.sample_text(self.params, prompts, keys, sampling, self.answer_length)
        tokens, mask = self._own((rollout.tokens, rollout.mask))
        return [
            self.tokenizer.decode(row[0][seen[0]]) for row, seen in zip(tokens, mask, strict=True)
        ]

    def _prompts(self, images: np.ndarray, texts: list[str]) -> Prompts:
        cfg = self.sampler.cfg
        rows = [self.tokenizer.question_prompt(text, cfg.image_tokens) for text in texts]
        tokens, mask = left_pad(rows, self.sampler.ids.pad, length=self.prompt_length)
        return Prompts(
            tokens, mask, np.stack([preprocess(image, cfg.vision.image_size) for image in images])
        )

    def _put(self, prompts: Prompts) -> Prompts:
        return prompts if self.sharder is None else self.sharder.put_batch(prompts)

    def _own(self, tree: Any) -> Any:
        return (
            jax.tree.map(np.asarray, tree)
            if self.sharder is None
            else self.sharder.local_rows(tree)
        )


@functools.partial(jax.jit, static_argnums=0)
def prompt_states(sampler: PolicyFns, params: Params, prompts: Prompts) -> Any:
    model = bind(sampler.graphdef, params)
    x = model.embed_prompt(prompts.tokens, prompts.images, sampler.ids.image)
    return model.language_model(x, prompt_positions(prompts.mask), prompt_mask(prompts.mask))[0]
