"""Answers as people write them: which say the same as the reference answer, and which do not."""

from __future__ import annotations

import json

import pytest

from corl_jax.core.errors import UserError
from corl_jax.data.answers.options import LETTERS, list_options
from corl_jax.data.answers.reading import is_correct, read_answer
from corl_jax.rewards.parsing.classes import class_f1
from corl_jax.rewards.parsing.math_equal import same_formula
from corl_jax.rewards.parsing.numbers import only_number

# Kind to rows of: one text, another text, whether they say the same.
OPEN_QUESTIONS = {
    "relations": [
        (">", "<", False),
        ("x > 5", "x < 5", False),
        ("x >= 5", "x > 5", False),
        ("x ≥ 5", "x >= 5", True),
        ("x≤5", "x <= 5", True),
        ("x ≠ 5", "x = 5", False),
        ("x ≠ 5", "x != 5", True),
        ("a = b", "a b", False),
        ("a < b", "a<b", True),
    ],
    "signs": [
        ("-3", "3", False),
        ("−3", "3", False),
        ("−3", "-3", True),
        ("– 3", "-3", True),
        ("－３", "-3", True),
        ("±3", "3", False),
        ("+", "-", False),
        ("A+", "A-", False),
        ("A+", "A", False),
        ("3 - 5", "3–5", True),
        ("3-5", "3 5", False),
    ],
    "roots and powers": [
        ("√2", "2", False),
        ("5²", "52", False),
        ("5²", "5", False),
        ("5²", "5^2", True),
        ("10⁻³", "10^-3", True),
        ("10⁻³", "10^3", False),
        ("5!", "5", False),
        ("½", "1/2", True),
        ("3½", "31/2", False),
        ("3½", "3 1/2", True),
        ("½", "12", False),
    ],
    "symbols": [
        ("♠", "♥", False),
        ("♠️", "♠", True),
        ("♠", "", False),
        ("50%", "50", False),
        ("50 %", "50%", True),
        ("$5", "€5", False),
        ("$5", "5", False),
        ("C#", "C", False),
        ("C++", "C", False),
        ("@home", "home", False),
        ("#1", "1", False),
        ("1/2", "12", False),
        ("9 / 11", "9/11", True),
        ("45°", "45", False),
        ("45º", "45°", True),
        ("5'", "5", False),
        ("5′", "5'", True),
        ('5"', "5'", False),
        ("?", "!", False),
        ("...", "?", False),
        ("?", "?", True),
        ("", "", False),
    ],
    "brackets": [
        ("(1, 2)", "[1, 2]", False),
        ("(1, 2)", "(1,2)", True),
        ("[0, 1)", "[0, 1]", False),
        ("(red)", "red", True),
        ("[red, blue]", "red, blue", True),
        ("red (dark)", "red dark", True),
        ("f(x)", "f x", False),
        ("dog(s)", "dog", False),
        ("((red))", "red", True),
    ],
    "times and decimals": [
        ("3:00", "300", False),
        ("3:00", "3:00.", True),
        ("2:1", "21", False),
        (".5", "5", False),
        (".5", "0.5", True),
        ("3.5", "35", False),
        ("3,5", "35", False),
        ("3.5.", "3.5", True),
        ("1.2.3", "1.2", False),
    ],
    "thousands": [
        ("1,000", "1000", True),
        ("1 000", "1000", True),
        ("1\u202f000", "1000", True),
        ("1'000", "1000", True),
        ("1{,}000", "1000", True),
        ("1,000,000", "1000000", True),
        ("1,234.5", "1234.5", True),
        ("1,000 people", "1000 people", True),
        ("-1,000", "1000", False),
        ("1,00", "100", False),
        ("10,00,000", "1000000", False),
        ("1,000", "1", False),
    ],
    "unicode": [
        ("３", "3", True),
        ("٣", "3", True),
        ("ｂｌｕｅ", "blue", True),
        ("𝐛𝐥𝐮𝐞", "blue", True),
        ("cafe\u0301", "café", True),
        ("café", "cafe", False),
        ("Straße", "STRASSE", True),
        ("ﬁsh", "fish", True),
        ("don’t", "don't", True),
        ("don't", "dont", False),
        ("“red”", "red", True),
        ("«rouge»", "rouge", True),
        ("「赤」", "赤", True),
        ("赤。", "赤", True),
        ("赤", "青", False),
        ("हिन्दी", "हन्द", False),
        ("co\u00adop", "coop", True),
        ("red\u200b", "red", True),
        ("２，０００", "2000", True),
        ("1️⃣", "1", True),
    ],
    "words": [
        ("Two.", "2", True),
        ("twenty-one", "21", True),
        ("one hundred and five", "105", True),
        ("the red circle", "Red circle!", True),
        ("A", "a", True),
        ("vitamin A", "vitamin", False),
        ("A, B", "B", False),
        ("a + b", "+ b", False),
        ("plan A", "plan B", False),
        ("red, blue", "red; blue", True),
        ("red blue", "blue red", False),
        ("yes!", "yes", True),
        ("¿sí?", "sí", True),
        ("t-shirt", "t shirt", False),
        ("4cm", "4 cm", True),
        ("4 cm", "4 m", False),
        ("U.S.", "u.s", True),
        ("two circles", "two", False),
        ("orange juice", "juice", False),
        ("red\nblue", "red blue", True),
    ],
    "wrappers": [
        ("**red**", "red", True),
        ("*red*", "red", True),
        ("`red`", "red", True),
        ('"red"', "red", True),
        ("'red'.", "red", True),
        (r"\boxed{red}", "red", True),
        (r"\boxed{\text{red}}", "red", True),
        (r"$\boxed{5}$", "5", True),
        ("$5$", "5", True),
        (r"\(5\)", "5", True),
        ("**red** or **blue**", "red or blue", True),
        ("2**3", "23", False),
        ("$5$ or $6$", "5$ or $6", False),
        ("(5) or (6)", "5) or (6", False),
        ("- red", "red", True),
        ("- 3", "3", False),
        ("**- 3**", "-3", True),
        ("“**Red.**”", "red", True),
    ],
}
OPEN_ROWS = [(kind, *row) for kind, rows in OPEN_QUESTIONS.items() for row in rows]

COLOURS = ("red", "blue", "green")
# Answer, options, the letter that is meant or "" for none.
CHOICES = [
    # Letters and what is around them.
    *[
        (answer, COLOURS, "B")
        for answer in (
            *("B", "b", "(B)", "[b]", "B.", "B,", "B;", "B:", "B)", "(B).", "Ｂ", "𝐁", "Ⓑ", "B!"),
            *(
                "**B**",
                "*B*",
                "**B.**",
                "**(B)**",
                "`B`",
                '"B"',
                "'B'",
                "“B”",
                '"B".',
                "- B",
                "B\n",
            ),
            *(
                r"\boxed{B}",
                r"\boxed{\text{B}}",
                r"$\boxed{B}$",
                "$B$",
                r"\text{B}",
                "（Ｂ）",
                "Ｂ。",
            ),
            *("B. blue", "B) Blue.", "(B) blue", "B: blue", "B - blue", "B – blue", "B blue"),
            *(
                "**B**: blue",
                "**B. blue**",
                "**B.** blue",
                r"\boxed{B. blue}",
                "B.\nblue",
                "blue (B)",
            ),
            *("blue", "Blue.", "the blue", "**blue**", '"blue"', "ｂｌｕｅ", "(blue)"),
            *(
                "Option B",
                "Option B: blue",
                "option (b)",
                "Answer: B",
                "Answer: **B**",
                "answer b.",
            ),
            *(
                "The answer is B",
                "The answer is B. blue",
                "The answer is (B) blue.",
                "the answer: B",
            ),
            *("The correct answer is B.", "My answer is B", "So the final answer is: B."),
            *("Therefore, the correct option is **B**.", r"The answer is $\boxed{B}$.", "It is B."),
            *("The answer is blue.", "The answer is option B", "I choose B", "It's blue"),
            *("B is correct", "Option B is the right answer.", 'The answer is "B"'),
        )
    ],
    # Nothing may be left over.
    *[
        (answer, COLOURS, "")
        for answer in (
            *("A or B", "A, B", "A and B", "A/B", "AB", "B or blue or red", "A. blue", "(A) blue"),
            *(
                "blue (A)",
                "D",
                "The answer is D",
                "The answer is A or B",
                "red blue",
                "not B",
                "B?A",
            ),
            *("A good picture of a red ball", "a ball", "I see a blue one", "I think so", "", "?"),
            *("the answer is a good one", "answerb", "Both A and B are correct", "It is red, B"),
        )
    ],
    ("a", COLOURS, "A"),
    ("A red", COLOURS, "A"),
    # Options that differ in signs alone.
    ("2", ("√2", "2"), "B"),
    ("√2", ("√2", "2"), "A"),
    (">", ("<", ">"), "B"),
    ("−3", ("3", "-3"), "B"),
    ("5^2", ("52", "5²"), "B"),
    ("1000", ("1,000", "1000"), "B"),
    ("1 000", ("100", "1,000"), "B"),
    ("polish", ("Polish", "polish"), "B"),
    ("A and B", ("only A", "A and B"), "B"),
    ("red", ("red", "red"), ""),
    ("c27", tuple(f"c{i}" for i in range(30)), ""),
    ("c3", tuple(f"c{i}" for i in range(30)), "D"),
    ("B. red", ("red", "red"), "B"),
    ("[0, 1)", ("[0, 1]", "[0, 1)"), "B"),
    ("a plan", ("plan", "no plan"), "A"),
    # Without options any letter counts, and no text.
    ("(E)", (), "E"),
    ("E. red", (), ""),
    ("The answer is E", (), "E"),
]


def test_the_tables_are_large():
    assert len(OPEN_ROWS) + len(CHOICES) >= 150


@pytest.mark.parametrize(("kind", "text", "other", "right"), OPEN_ROWS)
def test_open_questions(kind, text, other, right):
    for completion in (text, f"<think>x</think> <answer> {text} </answer>"):
        assert is_correct(completion, other, "OE") is right
    # The reference answer is read by the same rule.
    assert is_correct(other, f"<answer>{text}</answer>", "OE") is right
    assert not text or is_correct(text, text, "OE")


@pytest.mark.parametrize(("answer", "options", "letter"), CHOICES)
def test_multiple_choice(answer, options, letter):
    for right_letter in LETTERS[: len(options)] or "E":
        for completion in (answer, f"<answer>{answer}</answer>"):
            assert is_correct(completion, right_letter, "MC", options) is (letter == right_letter)

    # A reference answer may be written in each of these ways; one that means nothing is an error.
    if letter:
        assert is_correct(letter, f"<answer>{answer}</answer>", "MC", options)
    else:
        with pytest.raises(UserError, match="must be the letter or the text of one option; got"):
            is_correct("A", answer, "MC", options)


def test_the_last_answer_counts_on_both_sides():
    text = "<think>first <answer>red</answer></think><answer>blue</answer>"
    assert is_correct(text, text, "OE") and is_correct("blue", text, "OE")
    assert not is_correct(text, "red", "OE")
    assert read_answer("＜answer＞Ｂ＜/answer＞") == "B"


@pytest.mark.parametrize(
    ("question", "options"),
    [
        ("What?\nOptions:\nA. a cat\nB. a dog\n\nAnswer.", ("a cat", "a dog")),
        ("What?\nOptions:\n(A) a cat\n(B) a dog", ("a cat", "a dog")),
        ("What?\nOptions:\nA: a cat\nB: a dog", ("a cat", "a dog")),
        ("What?\nChoices:\n[a] a cat\n[b] a dog", ("a cat", "a dog")),
        ("What?\noptions\nA) a cat\nB) a dog", ("a cat", "a dog")),
        ("What?\n- **A.** a cat\n- **B.** a dog", ("a cat", "a dog")),
        ("What?\nＡ．a cat\nＢ．a dog", ("a cat", "a dog")),
        ("What? Options: (A) a cat (B) a dog", ("a cat", "a dog")),
        ("What? Choices: A. a cat, B. a dog", ("a cat", "a dog")),
        ("Which of the options?\nOptions:\nA. a cat\nB. a dog", ("a cat", "a dog")),
        # Lines that are no options, or not the next one.
        ("Options:\nA. a cat\nor\nB. a dog\nC. a fox", ("a cat", "a dog", "a fox")),
        ("Options:\nA. a cat\nI. Newton said\nB. a dog", ("a cat", "a dog")),
        ("Options:\nA. a cat\nB. a dog\nA. is not known\nC. a fox", ("a cat", "a dog", "a fox")),
        ("A. Newton saw\nwhat?\nA. a cat\nB. a dog", ("a cat", "a dog")),
        ("a.m. or p.m.?\nA. a.m.\nB. p.m.", ("a.m.", "p.m.")),
        ("A.M. or P.M.?\nA.A.M.\nB.P.M.\nA.early\nB.late", ("early", "late")),
        ("Options:\nA. a cat\nD. a dog", ()),
        ("What is it?", ()),
        ("Options:\nA. only one", ()),
    ],
)
def test_options_of_a_question(question, options):
    assert list_options(question) == options
    assert list_options(question.replace("\n", "\r\n")) == options


FORMULAS = [
    ("> 5", "< 5", False),
    (r"\ge 5", r"\le 5", False),
    (r"\geq 5", "≥ 5", True),
    ("x > 5", "5 < x", True),
    ("x > 5", "> 5", True),
    ("x > 5", "x < 5", False),
    ("x is > 5", "> 5", True),
    ("5", "> 5", False),
    ("> 5", "5", False),
    ("3 > x > 1", "1 < x < 3", True),
    (r"1 < x \le 3", "1 < x < 3", False),
    (r"x \ne 5", "5 != x", True),
    (r"x \ne 5", "5", False),
    ("x > $5$", r"The answer is \boxed{x > 5}.", True),
    ("x > 5/10", r"x > \frac{1}{2}", True),
    ("≈ 3.14", "3.14", True),
    (r"\pm 3", "3", False),
    (r"\pm 3", "±3", True),
    ("-3", "3", False),
    ("−3", "-3", True),
    ("4 cm", "4 m", False),
    ("4 cm", "40 mm", True),
    ("0.04 m", "4 cm", True),
    ("4 cm", "4", True),
    ("4m", "4 m", True),
    ("4m", "4", False),
    ("2x + 3m", "2x + 3", False),
    ("4 kg", "4 g", False),
    ("4 kg", "4000 g", True),
    ("18 km/h", "5 m/s", True),
    ("5 km/h", "5 m/s", False),
    ("60 mph", "60 miles per hour", True),
    ("30°C", "30°F", False),
    ("30 cm", "30°", False),
    ("30 degrees", "30°", True),
    (r"$5\text{ cm}$", "5 cm", True),
    (r"\boxed{5\text{ cm}}", "5 m", False),
    (r"\boxed{5} cm", "5 m", False),
    ("$5$ cm", "50 mm", True),
    (r"5\,\mathrm{cm}^2", "5 cm²", True),
    ("5 cm^2", "5 cm^3", False),
    ("1 L", "1000 cm^3", True),
    ("5 z", "5", False),
    (r"5 \text{ apples}", r"5 \text{ pears}", False),
    (r"5 \text{ apples}", "5", True),
    (r"\frac{1}{2}", "0.5", True),
    ("3½", "3.5", True),
    ("3 1/2", "7/2", True),
    ("x²", "x^2", True),
    ("10⁻⁵", "10^{-5}", True),
    ("3×10⁴", "30,000", True),
    ("(1, 2)", "[1, 2]", False),
    ("50%", "0.5", True),
]


@pytest.mark.parametrize(("answer", "reference_answer", "same"), FORMULAS)
def test_formulas(answer, reference_answer, same):
    answer, reference_answer = read_answer(answer), read_answer(reference_answer)
    assert same_formula(answer, reference_answer) is same
    assert same_formula(answer, answer)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        *[("3 apples", 3), ("−3", -3), ("３", 3), ("1,000", 1000), ("**3**", 3), ("so → 3", 3)],
        *[("> 3", None), ("±3", None), ("√3", None), ("3√2", None), (r"2\sqrt{3}", None)],
        *[("3/3", None), ("x ≤ 3", None), ("3²", None), ("½", None), ("so -> 3", 3), ("", None)],
    ],
)
def test_only_number(text, number):
    assert only_number(read_answer(text)) == number


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *[("- cat\n- dog", 1), ("* cat\n* dog", 1), ("• cat\n• dog", 1), ("– cat\n– dog", 1)],
        *[
            ("1. cat\n2. dog", 1),
            ("(1) cat\n(2) dog", 1),
            ("**cat**, **dog**", 1),
            ("#cat #dog", 0),
        ],
        *[("- 2 cats\n- 1 dog", 1), ("ｃａｔ，ｄｏｇ", 1), ("“cat”、“dog”", 1), ("cat\ndog\n-", 1)],
        *[("cat - dog", 0), ("- cat", 2 / 3), ("?", 0)],
    ],
)
def test_lists_of_classes(text, value):
    assert class_f1(read_answer(text), "cat, dog") == pytest.approx(value)
    assert class_f1(read_answer("- cat\n- dog"), read_answer("• dog\n• cat")) == 1


def cases(test_data, name):
    return [json.loads(row) for row in (test_data("data/cases") / name).read_text().splitlines()]


def test_answers_that_were_read_wrongly(test_data):
    for case in cases(test_data, "answers.jsonl"):
        arguments = (case["completion"], case["reference"], case["qa_type"], case["choices"])
        assert is_correct(*arguments) is case["right"], case


def test_formulas_that_were_read_wrongly(test_data):
    for case in cases(test_data, "formulas.jsonl"):
        answer, reference = read_answer(case["answer"]), read_answer(case["reference"])
        assert same_formula(answer, reference) is case["same"], case
