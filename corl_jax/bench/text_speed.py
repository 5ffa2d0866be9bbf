"""Speed of text decoding where rows end early, beside one loop that takes all rows to the end.

Both sample the same texts. The model's weights are random, and so would its lengths be; here each
token is the end token with one probability, so lengths are geometric with a given median.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from corl_jax.bench.timing import REST_SECONDS, LogLine
from corl_jax.bench.workloads import get_model_config, make_question_prompts, make_random_policy
from corl_jax.core.trees import bind
from corl_jax.sampling.batching import prompt_keys
from corl_jax.sampling.decode_text import decode_text
from corl_jax.sampling.policy import Policy
from corl_jax.sampling.row_levels import Level

FEWER_ROWS, ALL_ROWS = "fewer rows", "all rows"


@dataclasses.dataclass(frozen=True)
class TextOptions:
    """What ``corl bench text`` runs.

    Attributes:
      size: of the model, a name in ``workloads.SIZES``.
      prompts, group_size: questions, and answers to each.
      length: most tokens of an answer.
      median: of the lengths, were there no limit.
      repeats: timings of each program.
    """

    size: str
    prompts: int
    group_size: int
    length: int
    median: float
    repeats: int


@dataclasses.dataclass(frozen=True)
class EndingModel:
    """A model whose end token has the same probability everywhere; all else is the model's.

    Attributes:
      model: a ``models.interface.UnifiedModel``.
      eos: the end token.
      never: bool ``[V]``, ids that are not sampled.
      probability: of the end token.
    """

    model: Any
    eos: int
    never: jax.Array
    probability: float

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def text_logits(self, states: jax.Array) -> jax.Array:
        """Logits whose softmax over the ids that are sampled has ``probability`` at the end token."""
        logits = self.model.text_logits(states)
        others = jnp.where(self.never.at[self.eos].set(True), -jnp.inf, logits)
        odds = self.probability / (1 - self.probability)
        return logits.at[:, self.eos].set(jax.nn.logsumexp(others, -1) + np.log(odds))


Sample = Callable[[int], tuple[jax.Array, jax.Array, jax.Array]]
"""From a seed to tokens, mask and log-probs ``[N, T]``."""


def run_benchmark(options: TextOptions, log: LogLine) -> dict[str, Any]:
    """Prints a table.

    Returns:
      the values for JSON: tokens per second ``ours`` and of all rows to the end, ``theirs``.

    Raises:
      UserError: an unknown size.
    """
    policy = make_random_policy(get_model_config(options.size))
    rows = options.prompts * options.group_size
    one_loop = (Level(rows, (options.length - 1,)),)
    samplers, compile_seconds = {}, {}
    for name, levels in ((FEWER_ROWS, None), (ALL_ROWS, one_loop)):
        begin = time.perf_counter()
        samplers[name] = compile_sampler(policy, options, levels)
        compile_seconds[name] = time.perf_counter() - begin
        log(f"{name}: compiled in {compile_seconds[name]:.1f} s")

    seconds, lengths, difference = time_in_turns(samplers, options.repeats, log)
    rates = {
        name: len(lengths) * lengths.mean() / sum(timings) for name, timings in seconds.items()
    }
    medians = {name: statistics.median(timings) for name, timings in seconds.items()}
    ratio = medians[ALL_ROWS] / medians[FEWER_ROWS]
    print(f"{options.size:14} {'text tokens/s':>14} {'rollout (s)':>12} {'compile (s)':>12}")
    for name in samplers:
        print(f"{name:14} {rates[name]:14.1f} {medians[name]:12.2f} {compile_seconds[name]:12.2f}")
    print(
        f"ratio {ratio:.2f}; {rows} rows, lengths of median {np.median(lengths):g}, at most "
        f"{lengths.max()} of {options.length}; log-probs differ by at most {difference:.1e}"
    )
    return {
        "size": options.size,
        "against": ALL_ROWS,
        "prompts": options.prompts,
        "group": options.group_size,
        "length": options.length,
        "ours": rates[FEWER_ROWS],
        "theirs": rates[ALL_ROWS],
        "ratio": ratio,
        "unit": "text tokens/s",
        "seconds": medians,
        "compile_seconds": compile_seconds,
        "median_length": float(np.median(lengths)),
        "max_length": int(lengths.max()),
        "largest_log_prob_difference": difference,
    }


def compile_sampler(
    policy: Policy, options: TextOptions, levels: tuple[Level, ...] | None
) -> Sample:
    """The rollout of ``decode_text`` with lengths of a median, on JAX's first device."""
    fns, cfg = policy.fns, policy.cfg
    sampling = fns.sampling_params("text")
    probability = 1 - 0.5 ** (1 / options.median)
    questions = make_question_prompts(policy.tokenizer, cfg, options.prompts)
    prompts = jax.tree.map(jnp.asarray, questions)

    def keys(seed: int) -> jax.Array:
        return prompt_keys(seed, "bench/text", np.arange(options.prompts), options.group_size)

    def sample(params: Any, prompts: Any, keys: jax.Array) -> tuple[jax.Array, ...]:
        never = fns.ids.banned_mask(cfg.text_vocab_size)
        model = EndingModel(bind(fns.graphdef, params), fns.ids.eos, never, probability)
        return decode_text(model, prompts, keys, sampling, fns.ids, options.length, levels)

    compiled = jax.jit(sample).lower(policy.params, prompts, keys(0)).compile()
    return lambda seed: compiled(policy.params, prompts, keys(seed))


def time_in_turns(
    samplers: Mapping[str, Sample], rounds: int, log: LogLine
) -> tuple[dict[str, list[float]], np.ndarray, float]:
    """Each program samples once a round, with the round's seed.

    Returns:
      seconds of each; the lengths of all rounds ``[N]``; the largest difference of log-probs.

    Raises:
      ValueError: their tokens are not the same.
    """
    seconds: dict[str, list[float]] = {name: [] for name in samplers}
    lengths, differences = [], []
    for seed in range(1, rounds + 1):
        outputs = []
        for name, sample in samplers.items():
            time.sleep(REST_SECONDS)
            begin = time.perf_counter()
            outputs.append([np.asarray(leaf) for leaf in sample(seed)])
            seconds[name].append(time.perf_counter() - begin)
            log(f"turn {seed} of {rounds}, {name}: {seconds[name][-1]:.2f} s")

        (tokens, mask, log_probs), (other_tokens, _, other_log_probs) = outputs
        if not np.array_equal(tokens, other_tokens):
            raise ValueError("both programs must sample the same tokens; they do not")
        lengths.append(mask.sum(1))
        differences.append(np.abs(log_probs - other_log_probs).max())
    return seconds, np.concatenate(lengths), float(max(differences))
