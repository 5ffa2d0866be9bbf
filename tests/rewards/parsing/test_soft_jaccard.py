"""Soft Jaccard by hand, and in bounded time."""

import random
import time

import pytest

from corl_jax.rewards.parsing.soft_jaccard import MAX_WORD_LENGTH, MAX_WORDS, soft_jaccard


@pytest.mark.parametrize(
    ("candidate", "reference", "score"),
    [
        ("The answer is B", "B", 0.25),
        ("orange juice", "juice", 0.5),
        ("donuts", "donut", 0.8333),
        ("A", "B", 0.0),
        ("a Red\tDOG\n", "a red dog", 1.0),
        ("red red red", "red", 1.0),
        ("", "red", 0.0),
        ("red", " ", 0.0),
        ("", "", 0.0),
        ("grass.", "grass", 0.8333),  # ratio 10/11
        ("abcd", "abce", 0.0),  # ratio 0.75 is below the threshold
        ("abcde", "abcdf", 0.6667),  # ratio 0.8 is enough
        ("donuts donutz", "donut", 0.4348),  # a word is paired once: 10/11 of 3 words
        ("donut donuts", "donuts", 0.5),  # and not if the other text has it
        ("donutss", "donut donuts", 0.4444),  # the more similar of two: 12/13 of 3 words
    ],
)
def test_by_hand(candidate, reference, score):
    assert soft_jaccard(candidate, reference) == pytest.approx(score, abs=5e-5)


def test_words_are_paired_in_the_order_of_the_text():
    assert soft_jaccard("donuts donutz", "donutzs") == pytest.approx((12 / 13) / (3 - 12 / 13))
    assert soft_jaccard("abcdef abcdex", "abcdey abcdez") == soft_jaccard(
        "abcdex abcdef", "abcdez abcdey"
    )


@pytest.mark.parametrize("letters", ["abcdefghijklmnopqrstuvwxyz", "ab", "anagrams"])
def test_a_long_text_takes_bounded_time(letters):
    rng = random.Random(0)

    def text():
        size = MAX_WORD_LENGTH if letters != "abcdefghijklmnopqrstuvwxyz" else 5
        base = list("abcdefghijklmnopqrstuvwxyz"[:size]) + ["z"] * max(0, size - 26)

        def word():
            return "".join(
                rng.sample(base, size) if letters == "anagrams" else rng.choices(letters, k=size)
            )

        return " ".join(word() for _ in range(100_000 // (size + 1)))

    candidate, reference = text(), text()
    start = time.process_time()
    assert 0 <= soft_jaccard(candidate, reference) <= 1
    assert time.process_time() - start < 5


def test_long_words_are_compared_only_for_equality():
    start = time.process_time()
    word = "ab" * 50_000
    assert soft_jaccard(word, word + "a") == 0 and soft_jaccard(word, word) == 1
    assert time.process_time() - start < 1


def test_equal_words_count_without_limit():
    words = [f"w{i}" for i in range(10 * MAX_WORDS)]
    assert soft_jaccard(" ".join(words), " ".join(reversed(words))) == 1
