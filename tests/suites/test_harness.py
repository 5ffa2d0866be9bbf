"""What the harnesses of others need of a policy, without them."""

from __future__ import annotations

import importlib
import sys
import types

import numpy as np
import pytest
from made_benchmarks import make_picture, png_base64, write_tsv

from corl_jax.core.errors import UserError
from corl_jax.sampling.policy import Policy
from corl_jax.suites.calls import prompts_of_batches, request_keys
from corl_jax.suites.harness.continuations import continuation_ids, likelihoods
from corl_jax.suites.harness.generation import GenerationOptions, generate_answers
from corl_jax.suites.prompts import MMVET_SYSTEM, SuitePrompt, multiple_choice
from corl_jax.suites.questions.rows import read_rows
from corl_jax.suites.questions.tables import read_table
from corl_jax.suites.requests import make_request, plan_batches


@pytest.fixture(scope="module")
def policy(policy_folder):
    return Policy.load(policy_folder)


def request(policy, text, *numbers):
    pictures = [make_picture(number) for number in numbers]
    return make_request(policy, SuitePrompt(text), len(pictures), lambda: pictures, text, False)


@pytest.mark.parametrize(
    ("settings", "options"),
    [
        ({}, GenerationOptions()),
        ({"max_new_tokens": 16, "do_sample": False, "temperature": 0.7}, GenerationOptions(16)),
        ({"temperature": 0, "top_p": 0, "num_beams": 1}, GenerationOptions()),
        ({"temperature": 0.2, "top_k": 3}, GenerationOptions(temperature=0.2, top_k=3)),
        ({"do_sample": True, "top_p": 0.9}, GenerationOptions(temperature=1.0, top_p=0.9)),
        ({"do_sample": True, "temperature": 0}, GenerationOptions()),
        ({"until": "Q:"}, GenerationOptions(until=("Q:",))),
        ({"until": ["\n\n", ""], "top_p": None}, GenerationOptions(until=("\n\n",))),
    ],
)
def test_settings_mean_what_they_mean_in_transformers(settings, options):
    assert GenerationOptions.read(settings, "a task") == options


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"num_beams": 4}, "num_beams must be 1; got num_beams=4"),
        ({"repetition_penalty": 1.2}, "repetition_penalty must be 1.0"),
        ({"stop_sequences": ["\n"]}, "settings must be of max_new_tokens"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"temperature": -1, "do_sample": True}, "temperature"),
        ({"temperature": 1, "top_p": 1.5}, "top_p"),
    ],
)
def test_settings_that_would_be_ignored_are_refused(settings, words):
    with pytest.raises(UserError, match="a task: .*" + words):
        GenerationOptions.read(settings, "a task")


def test_an_answer_ends_before_the_first_of_its_ends():
    options = GenerationOptions(until=("\n\n", "Q:"))
    assert options.cut("red Q: blue\n\ngreen") == "red "
    assert options.cut("red\n\nQ:") == "red" and options.cut("red") == "red"


def test_answers_keep_their_order_and_do_not_depend_on_the_batch(policy):
    requests = [
        request(policy, "\nWhat? " * (1 + number % 7), *range(number % 3)) for number in range(11)
    ]
    options = [GenerationOptions(6, temperature=float(number % 2)) for number in range(11)]
    done = []
    one = generate_answers(policy, requests, options, 4, 5, done.append)
    assert sum(done) == 11 and len(set(one)) > 5
    assert generate_answers(policy, requests, options, 1, 5, done.append) == one

    # Another seed changes what is sampled, and nothing else. Two samples of a question differ.
    other = generate_answers(policy, requests, options, 4, 6, done.append)
    assert other[::2] == one[::2] and other[1::2] != one[1::2]
    twice = generate_answers(policy, [requests[1]] * 2, [options[1]] * 2, 4, 5, done.append)
    assert twice[0] != twice[1]


def greedy_tokens(policy, one, length):
    """Tokens of the greedy answer to one request, and the sampler's log-probs of them."""
    ((batch, prompts),) = prompts_of_batches(policy, [one], plan_batches([one], 1), 1)
    sampling = policy.fns.sampling_params("text", temperature=0.0)
    keys = request_keys(0, batch, 1)
    rollout = policy.fns.sample_text(policy.params, prompts, keys, sampling, length)
    count = int(np.sum(rollout.mask[0, 0]))
    return rollout.tokens[0, 0, :count].tolist(), float(np.sum(rollout.log_probs[0, 0, :count]))


def test_a_likelihood_is_that_of_the_sampler(policy):
    requests = [
        request(policy, "\nWhat is it?", 1),
        request(policy, "Why?"),
        request(policy, "\n?", 2, 3),
    ]
    answers = [greedy_tokens(policy, one, 5 + 4 * place) for place, one in enumerate(requests)]
    ids = [tokens for tokens, _ in answers]
    for (tokens, total), found in zip(
        answers, likelihoods(policy, requests, ids, 2, lambda done: None), strict=True
    ):
        assert found.is_greedy and found.tokens == len(tokens)
        assert found.log_prob == pytest.approx(total, abs=1e-4)

    # Another last token is less likely, and not what the policy answers.
    others = [[*tokens[:-1], (tokens[-1] + 1) % 256] for tokens in ids]
    for (_, total), found in zip(
        answers, likelihoods(policy, requests, others, 2, lambda done: None), strict=True
    ):
        assert not found.is_greedy and found.log_prob < total


@pytest.mark.parametrize("text", ["", "<image_placeholder>", "yes<|User|>"])
def test_a_continuation_is_a_text(policy, text):
    with pytest.raises(UserError, match="here: a continuation must be a text"):
        continuation_ids(policy, text, "here")


TYPES = {"POPE": "Y/N", "MME": "Y/N", "MMBench_DEV_EN": "MCQ", "MathVista_MINI": "VQA"}


@pytest.fixture
def kit(monkeypatch):
    """The adapter, on a stand-in of what it needs of VLMEvalKit: its base model is here in short."""

    class BaseModel:
        def __init__(self):
            self.dump_image_func = None

        def set_dump_image(self, function):
            self.dump_image_func = function

        def dump_image(self, line, dataset):
            return self.dump_image_func(line)

        def generate(self, message, dataset=None):
            assert all(part["type"] in self.allowed_types for part in message)
            return self.generate_inner(message, dataset)

    for name, members in {
        "vlmeval": {},
        "vlmeval.dataset": {"DATASET_TYPE": lambda name: TYPES.get(name, "VQA")},
        "vlmeval.vlm": {},
        "vlmeval.vlm.base": {"BaseModel": BaseModel},
    }.items():
        module = types.ModuleType(name)
        module.__dict__.update(members)
        monkeypatch.setitem(sys.modules, name, module)
    name = "corl_jax.suites.harness.vlmevalkit_model"
    monkeypatch.delitem(sys.modules, name, raising=False)
    yield importlib.import_module(name)
    sys.modules.pop(name, None)


def test_vlmevalkit_gets_the_answers_of_our_suites(kit, policy_folder, policy, tmp_path):
    path = tmp_path / "1.png"
    make_picture(1).save(path)
    row = {"index": 7, "question": "Which?", "hint": "Look up.", "A": "red", "B": "blue", "C": ""}
    table = write_tsv(tmp_path / "table.tsv", [{**row, "answer": "A", "image": png_base64(1)}])
    (question,) = read_table(read_rows(table), tmp_path)

    model = kit.CorlJax(str(policy_folder), answer_tokens=9)
    model.set_dump_image(lambda line: [str(path)])
    assert model.use_custom_prompt("MMBench_DEV_EN") and not model.use_custom_prompt("MathVista")
    message = model.build_prompt({**row, "C": float("nan")}, "MMBench_DEV_EN")
    assert message == [
        {"type": "image", "value": str(path)},
        {"type": "text", "value": multiple_choice(question).content},
    ]

    one = request(policy, multiple_choice(question).content, 1)
    options = [GenerationOptions(9)]
    (answer,) = generate_answers(policy, [one], options, 1, 0, lambda done: None)
    assert model.generate(message, "MMBench_DEV_EN") == answer.strip()


@pytest.mark.parametrize(
    ("dataset", "text"),
    [
        ("POPE", "\nIs it?\nAnswer the question using a single word or phrase."),
        (
            "MME",
            "\nIs it? Please answer yes or no.\nAnswer the question using a single word or phrase.",
        ),
        ("MMVet", "\nIs it? Please answer yes or no."),
    ],
)
def test_vlmevalkit_questions_are_those_of_its_janus(kit, policy_folder, dataset, text):
    model = kit.CorlJax(str(policy_folder), answer_tokens=4)
    model.set_dump_image(lambda line: ["a.png", "b.png"])
    line = {"index": 1, "question": "Is it? Please answer yes or no."}
    *pictures, last = model.build_prompt(line, dataset)
    assert [part["value"] for part in pictures] == ["a.png", "b.png"]
    assert last == {"type": "text", "value": text}


def test_vlmevalkit_lets_the_policy_think_in_mmvet_alone(kit, policy_folder, monkeypatch):
    prompts = []
    monkeypatch.setattr(
        kit, "make_request", lambda policy, prompt, *rest: prompts.append(prompt) or rest
    )
    monkeypatch.setattr(kit, "generate_answers", lambda *args: ["<answer> red </answer>"])
    model = kit.CorlJax(str(policy_folder))
    message = [{"type": "text", "value": "Why? "}]
    assert model.generate(message, "MMVet") == "red"
    assert kit.CorlJax(str(policy_folder), keep_tags=True).generate(message) != "red"
    assert prompts == [SuitePrompt("Why? ", MMVET_SYSTEM), SuitePrompt("Why? ")]
