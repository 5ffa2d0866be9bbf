"""A policy as a model of lmms-eval: ``lmms_eval --model corl_jax --model_args policy=FOLDER``.

Interface: lmms-eval 0.7.3, ``lmms_eval/api/model.py`` and docs/guides/model_guide.md, "simple"
models. Torch is imported by lmms-eval alone.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from lmms_eval.api.instance import GenerationResult, Instance
from lmms_eval.api.model import lmms
from lmms_eval.utils import simple_parse_args_string
from tqdm import tqdm

from corl_jax.core.checks.config_block import PositiveInt, Seed, check_value
from corl_jax.core.errors import UserError
from corl_jax.data.answers.reading import extract_answer
from corl_jax.sampling.policy import Policy
from corl_jax.suites.harness.continuations import continuation_ids, likelihoods
from corl_jax.suites.harness.generation import GenerationOptions, generate_answers
from corl_jax.suites.harness.lmms_eval_requests import Content, Document, prepare_requests
from corl_jax.suites.requests import check_batch_size

BATCH_SIZE = 64
"""Rows of a call where neither ``--batch_size`` nor ``--model_args`` says."""

DEVICE_ADVICE = "JAX takes all devices of this machine; JAX_PLATFORMS=cpu chooses another kind"


class CorlJax(lmms):
    """A policy whose answers lmms-eval scores.

    See ``lmms_eval_requests`` for how questions are put.
    """

    is_simple = True

    def __init__(
        self,
        policy: str,
        batch_size: int | str = BATCH_SIZE,
        plain_roles: bool = False,
        devices: int = 1,
        seed: int = 0,
        keep_tags: bool = False,
        **others: Any,
    ):
        """Loads the policy.

        Args:
          policy: ``tiny``, a Hugging Face folder or hub id, or a work directory.
          batch_size: rows of a call.
          plain_roles: writes the roles as words, as VLMEvalKit does for Janus.
          devices: that share a copy of the policy; there are as many copies as fit on the machine.
          seed: of answers that are sampled.
          keep_tags: hands over all that the policy wrote; otherwise what is between the answer tags,
            if it wrote some, which the rules of lmms-eval do not know.
          **others: is refused.

        Raises:
          UserError: an unknown argument, a value out of range, a policy that cannot be loaded, or
            several processes.
        """
        super().__init__()
        _check_arguments(others)
        if not str(batch_size).isdecimal():
            raise UserError(f"batch_size must be a number; got {batch_size!r}")
        self._batch_size = int(batch_size)
        check_value("batch_size", self._batch_size, PositiveInt)
        check_value("plain_roles", plain_roles, bool)
        check_value("keep_tags", keep_tags, bool)
        check_value("devices", devices, PositiveInt)
        check_value("seed", seed, Seed)
        self._plain_roles, self._keep_tags, self._seed = plain_roles, keep_tags, seed

        self._policy = Policy.load(str(policy), devices=devices, data_parallel=True)
        check_batch_size(self._policy, self._batch_size, "batch_size")

    @classmethod
    def create_from_arg_string(
        cls, arg_string: str, additional_config: Mapping[str, Any] | None = None
    ) -> CorlJax:
        """The model of ``--model_args``, and of the flags of lmms-eval that these do not name.

        ``--batch_size`` is 1 unless someone says otherwise, so what stands in ``--model_args``
        counts.
        """
        flags = {k: v for k, v in (additional_config or {}).items() if v is not None}
        return cls(**(flags | simple_parse_args_string(arg_string)))

    def generate_until(self, requests: Sequence[Instance]) -> list[str]:
        """Answers; each ends before the first text of ``until``."""
        contents, options = [], []
        for request in requests:
            text, settings, doc_to_visual, *place = request.args
            contents.append(Content(text, doc_to_visual, Document(*place)))
            options.append(GenerationOptions.read(settings, contents[-1].document.location))

        prepared = prepare_requests(self._policy, self.task_dict, contents, self._plain_roles)
        with _bar("answers", len(requests)) as bar:
            answers = generate_answers(
                self._policy, prepared, options, self._batch_size, self._seed, bar.update
            )
        return [
            chosen.cut(answer if self._keep_tags else extract_answer(answer))
            for chosen, answer in zip(options, answers, strict=True)
        ]

    def loglikelihood(self, requests: Sequence[Instance]) -> list[GenerationResult]:
        """The loss of each continuation, and whether the greedy answer begins with it.

        The loss is the mean negative log-prob of a token: lmms-eval takes the choice whose number
        is smallest (``ConfigurableTask.process_results``), and its models return their loss.
        Pairs are wrapped, since version 0.7.3 makes texts of bare ones
        (``unwrap_generation_output``).
        """
        contents, continuations = [], []
        for request in requests:
            if len(request.args) != 6:
                raise UserError(
                    "the metric acc_mutual_info needs texts without a question, which these "
                    "policies do not read; leave it out of the task"
                )
            text, target, doc_to_visual, *place = request.args
            document = Document(*place)
            if not isinstance(target, str):
                target = target(document.row(self.task_dict))
            contents.append(Content(text, doc_to_visual, document))
            continuations.append(continuation_ids(self._policy, str(target), document.location))

        prepared = prepare_requests(self._policy, self.task_dict, contents, self._plain_roles)
        with _bar("continuations", len(requests)) as bar:
            found = likelihoods(self._policy, prepared, continuations, self._batch_size, bar.update)
        return [GenerationResult((-one.log_prob / one.tokens, one.is_greedy)) for one in found]

    def generate_until_multi_round(self, requests: Sequence[Instance]) -> list[str]:
        """Not there: the policies read one turn.

        Raises:
          UserError: always.
        """
        raise UserError(
            "corl_jax answers tasks of one round; got generate_until_multi_round. Choose tasks "
            "whose output_type is generate_until or multiple_choice"
        )


def _bar(label: str, total: int) -> Any:
    return tqdm(total=total, desc=f"corl_jax: {label}", file=sys.stderr, ascii=True)


def _check_arguments(others: Mapping[str, Any]) -> None:
    """Refuses arguments that would be ignored, and several processes."""
    for name in others:
        advice = DEVICE_ADVICE if name == "device" else "Leave it out"
        raise UserError(
            "--model_args must be of policy, batch_size, plain_roles, devices, seed, keep_tags; got "
            f"{name}={others[name]!r}. {advice}"
        )
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if processes > 1:
        raise UserError(
            f"corl_jax must run in one process, which takes all devices; got {processes} "
            "(WORLD_SIZE). Start lmms_eval without accelerate or torchrun"
        )
