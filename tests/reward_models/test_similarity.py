"""Token similarities: numbers made from transformers' own states, in order of rows, on one device and on eight."""

import jax
import numpy as np
import pytest
from tests.porting.encoders import torch_states, write_encoder

from corl_jax.core.errors import UserError
from corl_jax.core.sharding import Sharder, make_mesh
from corl_jax.reward_models.base import TINY, load_reward_model
from corl_jax.reward_models.batched import ROWS
from corl_jax.reward_models.bert.similarity import BertScore, SentenceSimilarity
from corl_jax.reward_models.bert.weights import BERT, SENTENCE
from corl_jax.rewards.cycle import soft_jaccard_embedding
from corl_jax.rewards.parsing.soft_jaccard import soft_jaccard

PAIRS = [
    ("a red circle above the blue square", "a blue circle above the red square"),
    ("two dogs running on grass.", "three cats on the grass"),
    ("the cat", "the cat"),
    ("", "a dog"),
    ("a dog", "\t"),
    ("", ""),
    ("Café!", "zebra ?"),
    ("dog " * 40, "a dog"),
    ("dog", "a red " * 200),
    ("circle", "square"),
]
CANDIDATES, REFERENCES = map(list, zip(*PAIRS, strict=True))
KINDS = {"bert": (BERT, BertScore), "mpnet": (SENTENCE, SentenceSimilarity)}


def on(devices, **mesh):
    return Sharder(make_mesh(mesh or {"data": 1}, jax.devices()[:devices]))


def by_torch(torch, name, model, folder, pairs):
    """The definition, pair by pair: unit vectors without the marks, best cosines, their means, F1."""
    import transformers

    pieces = {"bert": transformers.BertTokenizer, "mpnet": transformers.MPNetTokenizer}[
        name
    ].from_pretrained(folder)
    scores = []
    for pair in pairs:
        rows = [pieces(text, truncation=True, max_length=64)["input_ids"] for text in pair]
        left, right = (
            state[1:-1] / np.linalg.norm(state[1:-1], axis=-1, keepdims=True)
            for state in torch_states(torch, model, rows, pieces.pad_token_id)
        )
        if not len(left) or not len(right):
            scores.append(0.0)
            continue
        cosine = np.maximum(left @ right.T, 0)
        precision, recall = cosine.max(1).mean(), cosine.max(0).mean()
        scores.append(2 * precision * recall / (precision + recall))
    return np.array(scores)


@pytest.fixture(scope="module", params=KINDS)
def case(request, tmp_path_factory):
    """Name, folder, scores by torch."""
    torch = pytest.importorskip(
        "torch", reason="parity needs torch: pip install -e '.[test]' (Python 3.11)"
    )
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp(request.param)
    model = write_encoder(torch, request.param, folder, headed=True)
    return request.param, folder, by_torch(torch, request.param, model, folder, PAIRS)


@pytest.fixture(scope="module")
def similarity(case):
    """On one device."""
    kind, wrapper = KINDS[case[0]]
    return wrapper(load_reward_model(kind, str(case[1]), on(1)), on(1))


def test_scores_are_those_of_the_definition(case, similarity):
    scores = similarity.f1(CANDIDATES, REFERENCES)
    assert scores.shape == (len(PAIRS),) and scores.dtype == np.float32
    np.testing.assert_allclose(scores, case[2], rtol=0, atol=1e-5)
    assert list(scores[3:6]) == [0, 0, 0] and scores[2] == pytest.approx(1, abs=1e-5)
    assert len(set(np.round(scores, 3))) >= 6


def test_rows_stay_in_order(case, similarity, rng):
    order = rng.permutation(4 * len(PAIRS)) % len(
        PAIRS
    )  # more rows than one call of the program takes
    assert len(order) > 2 * ROWS and len(order) % ROWS
    scores = similarity.f1([CANDIDATES[i] for i in order], [REFERENCES[i] for i in order])
    np.testing.assert_allclose(scores, case[2][order], rtol=0, atol=1e-5)


def test_any_number_of_rows_is_one_program(similarity):
    for count in (1, 3, ROWS + 1):
        similarity.f1(["red " * 40] * count, ["the dog"] * count)
    similarity.f1(CANDIDATES, REFERENCES)
    assert similarity._program._cache_size() == 1


def test_eight_devices_give_the_same(case):
    kind, wrapper = KINDS[case[0]]
    sharder = on(8, **{"bert": {"fsdp": 8}, "mpnet": {"data": 2, "fsdp": 2, "tensor": 2}}[case[0]])
    scores = wrapper(load_reward_model(kind, str(case[1]), sharder), sharder).f1(
        CANDIDATES, REFERENCES
    )
    np.testing.assert_allclose(scores, case[2], rtol=0, atol=1e-5)


def test_soft_jaccard_and_states_count_the_same(similarity):
    words = [soft_jaccard(left, right) for left, right in PAIRS]
    both = (np.array(words) + similarity.f1(CANDIDATES, REFERENCES)) / 2
    np.testing.assert_allclose(
        soft_jaccard_embedding(similarity, CANDIDATES, REFERENCES), both, atol=1e-6
    )


def test_the_tiny_twin_scores_any_text():
    tiny = SentenceSimilarity(load_reward_model(SENTENCE, TINY, on(1)), on(1))
    scores = tiny.f1(["a dog", "\u4e00\u4e8c", ""], ["a dog", "two", "x"])
    assert scores[0] == pytest.approx(1, abs=1e-5) and 0 <= scores[1] < 1 and scores[2] == 0
    assert tiny.f1(["a dog" * 10], ["x" * 50])[0] < 1
    assert tiny._program._cache_size() == 2  # 32 and 64 tokens wide


def test_no_rows_and_rows_without_a_partner(similarity):
    assert similarity.f1([], []).shape == (0,)
    with pytest.raises(
        UserError, match="2 candidates and 1 references; expected one reference for each"
    ):
        similarity.f1(["a", "b"], ["a"])
