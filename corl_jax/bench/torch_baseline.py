"""The other side of ``bench step``: a training step with transformers' Janus in torch, on the same weights and prompts.

In: a Hugging Face folder, prompts, a ``Work``. Out: a ``Step``. Rollouts are ``generate``; the update is a
teacher-forced forward and backward of both tasks, scored as ours is (pictures under the guided distribution), and
``torch.optim.AdamW``. Only the language model is trained; each phase runs on the number of threads that suits it best.
"""

from __future__ import annotations

import os
import pathlib
from typing import Any

import numpy as np

from corl_jax.bench.decode_contenders import torch_model
from corl_jax.bench.timing import CLIP_NORM, GUIDANCE, LEARNING_RATE, PHASES, Work, timed_step
from corl_jax.core.types import Prompts
from corl_jax.sampling.prompt_layout import SpecialTokenIds

LONG_ENOUGH = 2.0
"""Seconds of steps that choose between numbers of threads; one short step alone may be a disturbed one."""


class TorchStep:
    """See the head of this file; ``ids.banned`` holds the end token, so that no answer ends early."""

    def __init__(
        self, folder: pathlib.Path, image: Prompts, text: Prompts, ids: SpecialTokenIds, work: Work
    ):
        self.torch, self.model, self.device = torch_model(folder)
        self.ids, self.work, self.threads = ids, work, dict.fromkeys(PHASES, os.cpu_count() or 1)
        self.model.requires_grad_(False)
        self.model.get_input_embeddings().padding_idx = (
            None  # the unconditional prompt is padding, and learns
        )
        self.trained = [
            *self.model.model.language_model.parameters(),
            *self.model.lm_head.parameters(),
        ]
        for leaf in self.trained:
            leaf.requires_grad_(True)
        how = {"lr": LEARNING_RATE, "betas": (0.9, 0.999), "weight_decay": 0.0}
        self.optimizer = self.torch.optim.AdamW(self.trained, **how)
        self.image = {"tokens": self._rows(image.tokens), "mask": self._rows(image.mask)}
        pixels = self._rows(np.asarray(text.images).transpose(0, 3, 1, 2), self.model.dtype)
        self.text = {
            "tokens": self._rows(text.tokens),
            "mask": self._rows(text.mask),
            "pixels": pixels,
        }
        self.advantages = self.torch.from_numpy(work.advantages().reshape(-1)).to(self.device)

    def warm(self) -> None:
        """Runs everything, and finds the best number of threads of each phase."""
        self.sample_text(0)
        seconds = {}
        for threads in sorted({1, os.cpu_count() or 1}, reverse=True):
            self.threads = dict.fromkeys(PHASES, threads)
            turns = [timed_step(self, 0)]
            while sum(turn["total"] for turn in turns) < LONG_ENOUGH:
                turns.append(timed_step(self, 0))
            seconds[threads] = {phase: min(turn[phase] for turn in turns) for phase in PHASES}
        self.threads = {phase: min((seconds[n][phase], n) for n in seconds)[1] for phase in PHASES}

    def sample_images(self, turn: int) -> Any:
        """Image tokens ``[N, S]``; their pixels are made and left."""
        self._use("rollout_image")
        self.torch.manual_seed(turn)
        how = {
            "do_sample": True,
            "top_k": 0,
            "guidance_scale": GUIDANCE,
            "generation_mode": "image",
        }
        codes = self.model.generate(
            self.image["tokens"], attention_mask=self.image["mask"], use_cache=True, **how
        )
        with self.torch.inference_mode():
            self.model.decode_image_tokens(codes).float().cpu()
        return codes

    def sample_text(self, turn: int) -> Any:
        """Answers ``[N, T]``."""
        self._use("rollout_text")
        self.torch.manual_seed(turn)
        length = self.work.answer
        written = self.model.generate(
            self.text["tokens"], attention_mask=self.text["mask"], pixel_values=self.text["pixels"],
            generation_mode="text", do_sample=True, top_k=0, min_new_tokens=length, max_new_tokens=length,
            suppress_tokens=list(self.ids.banned), pad_token_id=self.ids.pad,
        )  # fmt: skip
        return written[:, -length:]

    def update(self, image: Any, text: Any) -> tuple[float, float]:
        """One step of AdamW; the loss, and the norm of the gradient before it is clipped."""
        self._use("update")
        self.optimizer.zero_grad(set_to_none=True)
        total, rows = 0.0, self.work.samples // self.work.torch_parts
        for start in range(0, self.work.samples, rows):
            part = slice(start, start + rows)
            for log_probs in (self.image_log_probs, self.text_log_probs):
                scored = log_probs(image if log_probs == self.image_log_probs else text, part)
                gain = self.torch.exp(scored - scored.detach()) * self.advantages[part, None]
                loss = -gain.mean(1).sum() / self.work.samples
                loss.backward()
                total += loss.item()
        norm = self.torch.nn.utils.clip_grad_norm_(self.trained, CLIP_NORM)
        self.optimizer.step()
        return total, norm.item()

    def image_log_probs(self, codes: Any, part: slice) -> Any:
        """``[n, S]`` of the rows ``part`` under the guided distribution."""
        torch, model = self.torch, self.model
        tokens, mask, codes = self.image["tokens"][part], self.image["mask"][part], codes[part]
        silent = tokens.masked_fill(
            torch.arange(tokens.shape[1], device=self.device) != tokens.shape[1] - 1, self.ids.pad
        )
        first = mask.int().argmax(1, keepdim=True)
        silent = silent.scatter(1, first, tokens.gather(1, first))
        written = model.prepare_embeddings_for_image_generation(codes[:, :-1])
        x = model.get_input_embeddings()(torch.cat([tokens, silent]))
        x, seen = (
            torch.cat([x, torch.cat([written, written])], 1),
            self._seen(mask, codes.shape[1] - 1),
        )
        states = model.model.language_model(
            inputs_embeds=x,
            attention_mask=seen.repeat(2, 1),
            position_ids=_positions(seen).repeat(2, 1),
            use_cache=False,
        ).last_hidden_state[:, tokens.shape[1] - 1 :]
        asked, nothing = model.model.generation_head(states).float().chunk(2)
        return _chosen(nothing + GUIDANCE * (asked - nothing), codes)

    def text_log_probs(self, answers: Any, part: slice) -> Any:
        """``[n, T]`` of the rows ``part``, banned ids left out."""
        tokens, answers = self.text["tokens"][part], answers[part]
        seen = self._seen(self.text["mask"][part], answers.shape[1] - 1)
        logits = self.model(
            input_ids=self.torch.cat([tokens, answers[:, :-1]], 1), pixel_values=self.text["pixels"][part],
            attention_mask=seen, position_ids=_positions(seen), use_cache=False, logits_to_keep=answers.shape[1],
        ).logits.float()  # fmt: skip
        banned = self.torch.zeros(logits.shape[-1], dtype=self.torch.bool, device=self.device)
        banned[list(self.ids.banned)] = True
        return _chosen(logits.masked_fill(banned, -1e30), answers)

    def _rows(self, array: Any, dtype: Any = None) -> Any:
        """Every prompt once per sample, on the device."""
        rows = self.torch.from_numpy(np.repeat(np.asarray(array), self.work.group, 0))
        return rows.to(self.device, dtype or self.torch.int64)

    def _seen(self, mask: Any, more: int) -> Any:
        return self.torch.cat([mask, mask.new_ones(len(mask), more)], 1)

    def _use(self, phase: str) -> None:
        self.torch.set_num_threads(self.threads[phase])


def _positions(seen: Any) -> Any:
    return (seen.cumsum(1) - 1).clamp(min=0)


def _chosen(logits: Any, tokens: Any) -> Any:
    return logits.log_softmax(-1).gather(-1, tokens[..., None])[..., 0]
