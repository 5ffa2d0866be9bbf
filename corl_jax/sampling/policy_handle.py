"""What rewards may ask of the policy: states of images and captions, and answers about images."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float

from corl_jax.core.processes.agreement import check_failures
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
    """A ``core.types.PolicyHandle`` over ``params``.

    Attributes:
      policy, tokenizer, params: the policy.
      prompt_length: width that prompts are padded to; None for the next multiple of 8.
      sharder: of the mesh that rows are spread over, each process passing its own; None for one
        device.
      answer_length: most tokens of an answer.
    """

    policy: PolicyFns
    tokenizer: TextTokenizer
    params: Params
    prompt_length: int | None = None
    sharder: Sharder | None = None
    answer_length: int = 64

    def token_states(
        self, images: np.ndarray, texts: list[str]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """See ``core.types.PolicyHandle``; states come for all prompt tokens, masks choose from them.

        The mask of the caption is true at exactly its tokens: neither the template's nor the
        placeholders of the image, whatever the padding (docs/decisions.md#caption-span).
        """
        prompts = self._prompts(images, texts)
        states = self._to_local_rows(
            prompt_states(self.policy, self.params, self._to_device(prompts))
        )

        # Prompts are padded on the left, so captions are found from the end of the template.
        captions = np.zeros_like(prompts.mask)
        role_names = (self.tokenizer.user, self.tokenizer.assistant)
        suffix = self.tokenizer.template.question_suffix(role_names)
        end = prompts.tokens.shape[1] - len(self.tokenizer.encode(suffix))
        for i, text in enumerate(texts):
            captions[i, end - len(self.tokenizer.encode(text.strip())) : end] = True
        return states, prompts.tokens == self.policy.ids.image, states, captions

    def answers(self, images: np.ndarray, questions: list[str]) -> list[str]:
        """See ``core.types.PolicyHandle``."""
        # Greedy, so the keys decide nothing.
        sampling = self.policy.sampling_params("text", temperature=0.0)
        prompts = self._to_device(self._prompts(images, questions))
        keys = sample_keys(stream(0, "answers", 0), len(prompts.tokens))[:, None]
        rollout = self.policy.sample_text(self.params, prompts, keys, sampling, self.answer_length)
        tokens, mask = self._to_local_rows((rollout.tokens, rollout.mask))
        return [
            self.tokenizer.decode(row[0][row_mask[0]])
            for row, row_mask in zip(tokens, mask, strict=True)
        ]

    def _prompts(self, images: np.ndarray, texts: list[str]) -> Prompts:
        """Questions about images, on the host."""
        cfg = self.policy.cfg
        rows = [self.tokenizer.question_prompt(text, cfg.image_tokens) for text in texts]
        tokens, mask = left_pad(rows, self.policy.ids.pad, length=self.prompt_length)
        pixels = np.stack([preprocess(image, cfg.image_size) for image in images])
        return Prompts(tokens, mask, pixels)

    def _to_device(self, prompts: Prompts) -> Prompts:
        if self.sharder is None:
            return prompts
        # All processes compute together, so none may be missing.
        check_failures()
        return self.sharder.put_batch(prompts)

    def _to_local_rows(self, tree: Any) -> Any:
        if self.sharder is None:
            return jax.tree.map(np.asarray, tree)
        return self.sharder.local_rows(tree)


@functools.partial(jax.jit, static_argnums=0)
def prompt_states(policy: PolicyFns, params: Params, prompts: Prompts) -> Float[Array, "N P D"]:
    """States of the last layer at every prompt token."""
    model = bind(policy.graphdef, params)
    x = model.embed_prompt(prompts.tokens, prompts.images, policy.ids.image)
    return model.backbone(x, prompt_positions(prompts.mask), prompt_mask(prompts.mask))[0]
