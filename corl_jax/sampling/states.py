"""States of pictures and captions read together: what the matching reward looks at.

In: pictures, texts. Out: final states of the image span and of the caption span, found from the token layout.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import numpy as np

from corl_jax.core.sharding import Sharder
from corl_jax.core.trees import bind
from corl_jax.core.types import Params, Prompts
from corl_jax.data.images import preprocess
from corl_jax.data.text import TextTokenizer, left_pad
from corl_jax.sampling.generate import Sampler
from corl_jax.sampling.layout import prompt_mask, prompt_positions


@dataclasses.dataclass(frozen=True)
class PolicyStates:
    """A ``PolicyHandle`` over ``params``.

    Attributes:
      sampler, tokenizer, params: of the policy.
      prompt_length: the fixed width, or None for the next multiple of 8.
      sharder: where the rows are spread over a mesh; each process asks about its own.
    """

    sampler: Sampler
    tokenizer: TextTokenizer
    params: Params
    prompt_length: int | None = None
    sharder: Sharder | None = None

    def token_states(
        self, images: np.ndarray, texts: list[str]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """See ``core.types.PolicyHandle``; both spans come back over the whole prompt, with their masks.

        The caption span is exactly the caption's tokens: no template, no placeholder, at any padding (decisions 17).
        """
        cfg, ids = self.sampler.cfg, self.sampler.ids
        rows = [self.tokenizer.question_prompt(text, cfg.image_tokens) for text in texts]
        tokens, mask = left_pad(rows, ids.pad, length=self.prompt_length)
        pictures = np.stack([preprocess(image, cfg.vision.image_size) for image in images])
        prompts = Prompts(tokens, mask, pictures)
        if self.sharder is None:
            states = np.asarray(final_states(self.sampler, self.params, prompts))
        else:
            states = self.sharder.own(final_states(self.sampler, self.params, self.sharder.put_batch(prompts)))
        captions = np.zeros_like(mask)
        tail = len(self.tokenizer.encode(f"\n\n{self.tokenizer.assistant}:"))
        for i, text in enumerate(texts):
            end = tokens.shape[1] - tail
            captions[i, end - len(self.tokenizer.encode(text.strip())) : end] = True
        return states, tokens == ids.image, states, captions


@functools.partial(jax.jit, static_argnums=0)
def final_states(sampler: Sampler, params: Params, prompts: Prompts) -> Any:
    model = bind(sampler.graphdef, params)
    x = model.embed_prompt(prompts.tokens, prompts.images, sampler.ids.image)
    return model.language_model(x, prompt_positions(prompts.mask), prompt_mask(prompts.mask))[0]
