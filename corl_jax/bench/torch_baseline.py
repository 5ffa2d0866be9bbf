"""A training step with transformers' Janus in torch, for ``corl bench step`` to compare with.

Weights, prompts and ``Workload`` are those of corl_jax's step. Rollouts are ``generate``. The
update is a teacher-forced forward and backward pass of both tasks (log-probs of images are those of
the guided distribution, as in corl_jax), and ``torch.optim.AdamW``. Only the language model is
trained, and every phase runs on its best number of threads.
"""

from __future__ import annotations

import os
import pathlib
from typing import TYPE_CHECKING, Any

import numpy as np

from corl_jax.bench.decode_contenders import load_torch_model
from corl_jax.bench.timing import PHASES, time_step
from corl_jax.bench.workloads import CLIP_NORM, GUIDANCE_SCALE, LEARNING_RATE, Workload
from corl_jax.core.types import Prompts
from corl_jax.sampling.prompt_layout import SpecialTokenIds

if TYPE_CHECKING:
    from torch import Tensor

# Least seconds of steps that choose a number of threads; a single short step may be disturbed.
TRIAL_SECONDS = 2.0


class TorchStep:
    """A ``timing.StepContender`` whose rollouts are token ids ``[N, T]``, ``N = B * G``.

    Args:
      folder: Hugging Face folder of the policy.
      image, text: prompts of both tasks.
      ids: ``banned`` must hold the end token, so that no answer ends early.
      workload: how much a step does.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        image: Prompts,
        text: Prompts,
        ids: SpecialTokenIds,
        workload: Workload,
    ):
        torch, self.model, self.device = load_torch_model(folder)
        self.torch: Any = torch
        self.ids, self.workload = ids, workload
        self.threads = dict.fromkeys(PHASES, os.cpu_count() or 1)

        # Only the language model is trained. The unconditional prompt consists of padding tokens,
        # whose embedding is trained like any other.
        self.model.requires_grad_(False)
        self.model.get_input_embeddings().padding_idx = None
        language_model, lm_head = self.model.model.language_model, self.model.lm_head
        self.trainable = [*language_model.parameters(), *lm_head.parameters()]
        for parameter in self.trainable:
            parameter.requires_grad_(True)
        self.optimizer = torch.optim.AdamW(
            self.trainable, lr=LEARNING_RATE, betas=(0.9, 0.999), weight_decay=0.0
        )

        # Every prompt once per sample.
        pixels = np.asarray(text.images).transpose(0, 3, 1, 2)
        self.image = {
            "tokens": self._repeat_per_sample(image.tokens),
            "mask": self._repeat_per_sample(image.mask),
        }
        self.text = {
            "tokens": self._repeat_per_sample(text.tokens),
            "mask": self._repeat_per_sample(text.mask),
            "pixels": self._repeat_per_sample(pixels).to(self.model.dtype),
        }
        self.advantages = torch.from_numpy(workload.advantages().reshape(-1)).to(self.device)

    def choose_threads(self) -> None:
        """Runs steps on one thread and on all, and keeps for every phase the faster number."""
        seconds: dict[int, dict[str, float]] = {}
        for threads in sorted({1, os.cpu_count() or 1}, reverse=True):
            self.threads = dict.fromkeys(PHASES, threads)
            # The fastest step counts, since others may have been disturbed.
            steps = [time_step(self, 0)]
            while sum(step["total"] for step in steps) < TRIAL_SECONDS:
                steps.append(time_step(self, 0))
            seconds[threads] = {phase: min(step[phase] for step in steps) for phase in PHASES}

        # Of equally fast numbers of threads the smaller one.
        self.threads = {
            phase: min((seconds[threads][phase], threads) for threads in seconds)[1]
            for phase in PHASES
        }

    def sample_images(self, seed: int) -> Tensor:
        """Image tokens ``[N, S]``; their pixels are decoded too, but not returned."""
        self._set_threads("rollout_image")
        self.torch.manual_seed(seed)
        # top_k=0 turns off a default of ``generate``: all ids may be sampled, as in corl_jax.
        tokens = self.model.generate(
            self.image["tokens"],
            attention_mask=self.image["mask"],
            generation_mode="image",
            do_sample=True,
            top_k=0,
            guidance_scale=GUIDANCE_SCALE,
            use_cache=True,
        )

        # Rewards of images need pixels, so decoding them is part of a rollout.
        with self.torch.inference_mode():
            self.model.decode_image_tokens(tokens).float().cpu()
        return tokens

    def sample_text(self, seed: int) -> Tensor:
        """Answers ``[N, T]``."""
        self._set_threads("rollout_text")
        self.torch.manual_seed(seed)

        # As many new tokens at least as at most: every answer has its full length.
        length = self.workload.answer_length
        tokens = self.model.generate(
            self.text["tokens"],
            attention_mask=self.text["mask"],
            pixel_values=self.text["pixels"],
            generation_mode="text",
            do_sample=True,
            top_k=0,
            min_new_tokens=length,
            max_new_tokens=length,
            suppress_tokens=list(self.ids.banned),
            pad_token_id=self.ids.pad,
        )
        return tokens[:, -length:]

    def update(self, image: Tensor, text: Tensor) -> tuple[float, float]:
        """A step of AdamW.

        Returns:
          the loss, and the norm of the gradient before it is clipped.
        """
        self._set_threads("update")
        self.optimizer.zero_grad(set_to_none=True)

        # Gradients add up over parts of the samples. No old log-probs: every ratio is 1.
        total_loss = 0.0
        samples = self.workload.samples
        part_size = samples // self.workload.torch_parts
        for start in range(0, samples, part_size):
            rows = slice(start, start + part_size)
            # One task after the other, so that the activations of one are in memory.
            for log_probs_of, tokens in (
                (self.image_log_probs, image),
                (self.text_log_probs, text),
            ):
                log_probs = log_probs_of(tokens, rows)
                ratio = self.torch.exp(log_probs - log_probs.detach())
                surrogate = ratio * self.advantages[rows, None]
                loss = -surrogate.mean(1).sum() / samples
                loss.backward()
                total_loss += loss.item()

        # Clip, then step, as ``engine.optim`` does.
        grad_norm = self.torch.nn.utils.clip_grad_norm_(self.trainable, CLIP_NORM)
        self.optimizer.step()
        return total_loss, grad_norm.item()

    def image_log_probs(self, image_tokens: Tensor, rows: slice) -> Tensor:
        """Log-probs ``[n, S]`` of ``rows`` under the guided distribution."""
        tokens, mask = self.image["tokens"][rows], self.image["mask"][rows]
        image_tokens = image_tokens[rows]
        length = tokens.shape[1]

        # The unconditional prompt, as ``prompt_layout.unconditional_tokens`` builds it: padding
        # tokens between the first token and the last.
        columns = self.torch.arange(length, device=self.device)
        uncond_tokens = tokens.masked_fill(columns != length - 1, self.ids.pad)
        first = mask.int().argmax(1, keepdim=True)
        uncond_tokens = uncond_tokens.scatter(1, first, tokens.gather(1, first))

        # Conditional rows, then unconditional ones, each followed by the same image tokens.
        prompt_embeds = self.model.get_input_embeddings()(self.torch.cat([tokens, uncond_tokens]))
        image_embeds = self.model.prepare_embeddings_for_image_generation(image_tokens[:, :-1])
        image_embeds = self.torch.cat([image_embeds, image_embeds])
        embeds = self.torch.cat([prompt_embeds, image_embeds], 1)
        attention_mask = self._extend_mask(mask, image_tokens.shape[1] - 1)
        states = self.model.model.language_model(
            inputs_embeds=embeds,
            attention_mask=attention_mask.repeat(2, 1),
            position_ids=_positions(attention_mask).repeat(2, 1),
            use_cache=False,
        ).last_hidden_state[:, length - 1 :]

        # Classifier-free guidance, as in ``objectives.sampling_distribution``.
        cond, uncond = self.model.model.generation_head(states).float().chunk(2)
        return _token_log_probs(uncond + GUIDANCE_SCALE * (cond - uncond), image_tokens)

    def text_log_probs(self, answers: Tensor, rows: slice) -> Tensor:
        """Log-probs ``[n, T]`` of ``rows``, with banned ids excluded."""
        tokens, answers = self.text["tokens"][rows], answers[rows]
        attention_mask = self._extend_mask(self.text["mask"][rows], answers.shape[1] - 1)
        logits = self.model(
            input_ids=self.torch.cat([tokens, answers[:, :-1]], 1),
            pixel_values=self.text["pixels"][rows],
            attention_mask=attention_mask,
            position_ids=_positions(attention_mask),
            use_cache=False,
            logits_to_keep=answers.shape[1],
        ).logits.float()

        # A banned id has the log-prob of ``sampling_distribution.BANNED``.
        banned = self.torch.zeros(logits.shape[-1], dtype=self.torch.bool, device=self.device)
        banned[list(self.ids.banned)] = True
        return _token_log_probs(logits.masked_fill(banned, -1e30), answers)

    def _repeat_per_sample(self, array: np.ndarray) -> Tensor:
        """``array [B, ...]`` with every row once per sample, on the device; integers as int64."""
        rows = self.torch.from_numpy(np.repeat(np.asarray(array), self.workload.group_size, 0))
        return rows.to(self.device) if rows.is_floating_point() else rows.to(self.device).long()

    def _extend_mask(self, mask: Tensor, length: int) -> Tensor:
        """The attention mask of prompts with ``length`` tokens after each."""
        return self.torch.cat([mask, mask.new_ones(len(mask), length)], 1)

    def _set_threads(self, phase: str) -> None:
        self.torch.set_num_threads(self.threads[phase])


def _positions(attention_mask: Tensor) -> Tensor:
    """Positions that count the tokens from 0."""
    return (attention_mask.cumsum(1) - 1).clamp(min=0)


def _token_log_probs(logits: Tensor, tokens: Tensor) -> Tensor:
    """Log-probs of ``tokens`` under ``logits``."""
    return logits.log_softmax(-1).gather(-1, tokens[..., None])[..., 0]
