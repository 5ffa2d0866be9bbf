"""What rewards may ask of the policy: how images and captions match, how likely one makes the other,
and answers about images.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Bool, Float

from corl_jax.core.processes.agreement import check_failures, largest_of_processes
from corl_jax.core.rng import sample_keys, stream
from corl_jax.core.sharding import Sharder
from corl_jax.core.trees import bind
from corl_jax.core.types import Judge, Params, Prompts
from corl_jax.data.images import preprocess, preprocess_target
from corl_jax.data.text_tokenizer import TextTokenizer, left_pad, right_pad
from corl_jax.objectives.token_matching import matching_scores
from corl_jax.sampling.generate import PolicyFns
from corl_jax.sampling.likelihood import mean_image_log_probs, mean_log_probs
from corl_jax.sampling.prompt_layout import prompt_mask, prompt_positions

WIDTH_STEP = 64
"""Widths of prompts are multiples of it, so that captions of many lengths compile few programs."""

TEXT_STEP = 16
"""The same for texts without images."""


@dataclasses.dataclass(frozen=True)
class RewardPolicyHandle:
    """A ``core.types.PolicyHandle`` over ``params``.

    Attributes:
      policy, tokenizer, params: the policy.
      prompt_length: most tokens of a prompt; they are padded to the ``WIDTH_STEP`` that holds the
        longest. None for any number, padded to the next multiple of 8.
      sharder: of the mesh that rows are spread over, each process passing its own; None for one
        device.
      answer_length: most tokens of an answer.
      reference: parameters of the policy that the run starts from, laid out as ``params``; None
        where no reward asks for it.
    """

    policy: PolicyFns
    tokenizer: TextTokenizer
    params: Params
    prompt_length: int | None = None
    sharder: Sharder | None = None
    answer_length: int = 64
    reference: Params | None = None

    def matching_scores(self, images: np.ndarray, texts: list[str]) -> np.ndarray:
        """See ``core.types.PolicyHandle``.

        The tokens of a caption are exactly its own: neither the template's nor the placeholders of
        the image, whatever the padding (docs/decisions.md#caption-span).
        """
        prompts = self._prompts(images, texts)
        is_caption = self.caption_mask(prompts.tokens.shape[1], texts)
        scores = prompt_matching(self.policy, self.params, *self._to_device((prompts, is_caption)))
        return self._to_local_rows(scores)

    def caption_mask(self, width: int, texts: list[str]) -> np.ndarray:
        """Which positions of prompts of ``width`` are tokens of their captions: bool ``[N, P]``."""
        # Prompts are padded on the left, so captions are found from the end of the template.
        end = width - self._question_suffix()
        mask = np.zeros((len(texts), width), bool)
        for i, text in enumerate(texts):
            mask[i, end - len(self.tokenizer.encode(text.strip())) : end] = True
        return mask

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

    def prompt_log_probs(self, images: np.ndarray, texts: list[str], judge: Judge) -> np.ndarray:
        """See ``core.types.PolicyHandle``. The tokens of a text are those of ``caption_mask``."""
        suffix = self._question_suffix()
        prefixes, targets = [], []
        for text in texts:
            ids = self.tokenizer.question_prompt(text, self.policy.cfg.image_tokens)
            begin = len(ids) - suffix - len(self.tokenizer.encode(text.strip()))
            prefixes.append(ids[:begin])
            targets.append(ids[begin : len(ids) - suffix])
        tokens, mask = right_pad(targets, self.policy.ids.pad, self._text_width(targets))
        prompts = self._with_images(images, *left_pad(prefixes, self.policy.ids.pad))
        rows = self._to_device((prompts, tokens, mask))
        return self._to_local_rows(mean_log_probs(self.policy, self._judge(judge), *rows, "text"))

    def picture_log_probs(
        self, texts: list[str], images: Sequence[np.ndarray], judge: Judge
    ) -> np.ndarray:
        """See ``core.types.PolicyHandle``. Special tokens in a text count as spaces."""
        prompts = [self._drawing_prompt(text) for text in texts]
        padded = left_pad(prompts, self.policy.ids.pad, length=self._text_width(prompts))
        side = self.policy.cfg.image_size
        pixels = np.stack([preprocess_target(image, side) for image in images])
        rows = self._to_device((Prompts(*padded), pixels))
        return self._to_local_rows(mean_image_log_probs(self.policy, self._judge(judge), *rows))

    def _judge(self, judge: Judge) -> Params:
        """The parameters of a judge."""
        if judge == "policy":
            return self.params
        if self.reference is None:
            raise ValueError("the reference policy was not read; pass RewardPolicyHandle.reference")
        return self.reference

    def _drawing_prompt(self, text: str) -> list[int]:
        """Ids that request a drawing of a text of the policy, which may have no words at all."""
        for token in self.tokenizer.template.special_tokens:
            text = text.replace(token, " ")
        if text.strip():
            return self.tokenizer.image_generation_prompt(text)
        return self.tokenizer.wordless_generation_prompt()

    def _question_suffix(self) -> int:
        """Tokens behind the question of a prompt."""
        role_names = (self.tokenizer.user, self.tokenizer.assistant)
        return len(self.tokenizer.encode(self.tokenizer.template.question_suffix(role_names)))

    def _text_width(self, rows: list[list[int]]) -> int:
        """Tokens that texts are padded to: a multiple of ``TEXT_STEP`` that holds those of all processes."""
        longest = max(map(len, rows))
        if self.sharder is not None:
            longest = largest_of_processes(longest)
        return -(-longest // TEXT_STEP) * TEXT_STEP

    def _prompts(self, images: np.ndarray, texts: list[str]) -> Prompts:
        """Questions about images, on the host."""
        cfg = self.policy.cfg
        rows = [self.tokenizer.question_prompt(text, cfg.image_tokens) for text in texts]
        return self._with_images(
            images, *left_pad(rows, self.policy.ids.pad, length=self._width(rows))
        )

    def _with_images(self, images: np.ndarray, tokens: np.ndarray, mask: np.ndarray) -> Prompts:
        side = self.policy.cfg.image_size
        return Prompts(tokens, mask, np.stack([preprocess(image, side) for image in images]))

    def _width(self, rows: list[list[int]]) -> int | None:
        """Tokens that prompts are padded to: as many as the longest of all processes needs."""
        if self.prompt_length is None:
            return None
        longest = max(map(len, rows))
        if self.sharder is not None:
            longest = largest_of_processes(longest)
        return min(-(-longest // WIDTH_STEP) * WIDTH_STEP, self.prompt_length)

    def _to_device(self, rows: Any) -> Any:
        if self.sharder is None:
            return rows
        # All processes compute together, so none may be missing.
        check_failures()
        return self.sharder.put_batch(rows)

    def _to_local_rows(self, tree: Any) -> Any:
        if self.sharder is None:
            return jax.tree.map(np.asarray, tree)
        return self.sharder.local_rows(tree)


@functools.partial(jax.jit, static_argnums=0)
def prompt_matching(
    policy: PolicyFns, params: Params, prompts: Prompts, is_caption: Bool[Array, "N P"]
) -> Float[Array, "N"]:
    """``objectives.token_matching`` of the images of ``prompts`` and their captions.

    The states of all positions stay on the device.
    """
    model = bind(policy.graphdef, params)
    x = model.embed_prompt(prompts.tokens, prompts.images, policy.ids.image)
    states, _ = model.backbone(x, prompt_positions(prompts.mask), prompt_mask(prompts.mask))
    return matching_scores(states, prompts.tokens == policy.ids.image, is_caption)
