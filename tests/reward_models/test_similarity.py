"""Text similarities: F1 from the states of transformers, rows in order, on one device and eight."""

import jax
import numpy as np
import pytest

from corl_jax.core.errors import UserError
from corl_jax.core.sharding import Sharder, make_mesh
from corl_jax.reward_models.base import TINY, load_reward_model
from corl_jax.reward_models.batched import MIN_ROWS_PER_CALL
from corl_jax.reward_models.bert.similarity import BertScore, SentenceSimilarity
from corl_jax.reward_models.bert.weights import BERT, SENTENCE
from corl_jax.rewards.cycle import soft_jaccard_embedding
from corl_jax.rewards.parsing.soft_jaccard import soft_jaccard
from tests.reward_models.encoders import torch_states, write_encoder

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
MODELS = {"bert": (BERT, BertScore), "mpnet": (SENTENCE, SentenceSimilarity)}


def make_sharder(devices, **mesh):
    return Sharder(make_mesh(mesh or {"data": 1}, jax.devices()[:devices]))


def torch_f1(torch, name, model, folder, pairs):
    """The definition, pair by pair: unit vectors of the words, best cosines, their means, F1."""
    import transformers

    tokenizers = {"bert": transformers.BertTokenizer, "mpnet": transformers.MPNetTokenizer}
    tokenizer = tokenizers[name].from_pretrained(folder)
    values = []
    for pair in pairs:
        rows = [tokenizer(text, truncation=True, max_length=64)["input_ids"] for text in pair]
        left, right = (
            state[1:-1] / np.linalg.norm(state[1:-1], axis=-1, keepdims=True)
            for state in torch_states(torch, model, rows, tokenizer.pad_token_id)
        )
        if not len(left) or not len(right):
            values.append(0.0)
            continue
        cosine = np.maximum(left @ right.T, 0)
        precision, recall = cosine.max(1).mean(), cosine.max(0).mean()
        values.append(2 * precision * recall / (precision + recall))
    return np.array(values)


@pytest.fixture(scope="module", params=MODELS)
def case(request, tmp_path_factory):
    """Name, folder, F1 by torch."""
    torch = pytest.importorskip(
        "torch", reason="parity needs torch: pip install -e '.[test]' (Python 3.11)"
    )
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp(request.param)
    model = write_encoder(torch, request.param, folder, with_head=True)
    return request.param, folder, torch_f1(torch, request.param, model, folder, PAIRS)


@pytest.fixture(scope="module")
def similarity(case):
    """The similarity on one device."""
    spec, similarity_class = MODELS[case[0]]
    model = load_reward_model(spec, str(case[1]), make_sharder(1))
    return similarity_class(model, make_sharder(1))


def test_f1_is_that_of_the_definition(case, similarity):
    values = similarity.f1(CANDIDATES, REFERENCES)
    assert values.shape == (len(PAIRS),) and values.dtype == np.float32
    np.testing.assert_allclose(values, case[2], rtol=0, atol=1e-5)
    assert list(values[3:6]) == [0, 0, 0] and values[2] == pytest.approx(1, abs=1e-5)
    assert len(set(np.round(values, 3))) >= 6


def test_rows_stay_in_order(case, similarity, rng):
    # More rows than one call of the program has.
    order = rng.permutation(4 * len(PAIRS)) % len(PAIRS)
    assert len(order) > 2 * MIN_ROWS_PER_CALL and len(order) % MIN_ROWS_PER_CALL
    values = similarity.f1([CANDIDATES[i] for i in order], [REFERENCES[i] for i in order])
    np.testing.assert_allclose(values, case[2][order], rtol=0, atol=1e-5)


def test_any_number_of_rows_is_one_program(similarity):
    for count in (1, 3, MIN_ROWS_PER_CALL + 1):
        similarity.f1(["red " * 40] * count, ["the dog"] * count)
    similarity.f1(CANDIDATES, REFERENCES)
    assert similarity._program._cache_size() == 1


def test_eight_devices_give_the_same(case):
    spec, similarity_class = MODELS[case[0]]
    meshes = {"bert": {"fsdp": 8}, "mpnet": {"data": 2, "fsdp": 2, "tensor": 2}}
    sharder = make_sharder(8, **meshes[case[0]])
    model = load_reward_model(spec, str(case[1]), sharder)
    values = similarity_class(model, sharder).f1(CANDIDATES, REFERENCES)
    np.testing.assert_allclose(values, case[2], rtol=0, atol=1e-5)


def test_soft_jaccard_and_embedding_have_equal_weight(similarity):
    words = [soft_jaccard(left, right) for left, right in PAIRS]
    mean = (np.array(words) + similarity.f1(CANDIDATES, REFERENCES)) / 2
    np.testing.assert_allclose(
        soft_jaccard_embedding(similarity, CANDIDATES, REFERENCES), mean, atol=1e-6
    )


def test_the_tiny_model_compares_any_text():
    tiny = SentenceSimilarity(load_reward_model(SENTENCE, TINY, make_sharder(1)), make_sharder(1))
    values = tiny.f1(["a dog", "\u4e00\u4e8c", ""], ["a dog", "two", "x"])
    assert values[0] == pytest.approx(1, abs=1e-5) and 0 <= values[1] < 1 and values[2] == 0
    assert tiny.f1(["a dog" * 10], ["x" * 50])[0] < 1
    assert tiny._program._cache_size() == 2  # 32 and 64 tokens long


def test_no_rows_and_rows_without_a_partner(similarity):
    assert similarity.f1([], []).shape == (0,)
    with pytest.raises(
        UserError, match="one reference for each candidate; got 2 candidates and 1 references"
    ):
        similarity.f1(["a", "b"], ["a"])
