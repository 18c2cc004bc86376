"""What is read from an LLM judge's answers, and what is left out because it is not clearly an answer."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping
from typing import Any

import pytest
from openai.types.chat import ChatCompletion

from tr_align.judges import book
from tr_align.judges.parse import SCHEMAS, VERDICTS, expected_rating, parse_brackets, parse_preference, parse_rating
from tr_align.settings import AXES

from .stub_replies import Answer, Token, completion

GRADES = {"coherence": 7, "correctness": 6.5, "helpfulness": 5, "harmlessness": 10, "detail": 1}
GOOD = json.dumps(GRADES)
NOTHING = dict.fromkeys(AXES)


def logs(**probabilities: float) -> dict[str, float]:
    """Log-probabilities of tokens; `_7` stands for the token "7"."""
    return {name.removeprefix("_"): math.log(p) for name, p in probabilities.items()}


def answer(*tokens: str | tuple[str, Mapping[str, float] | None]) -> tuple[str, list[Any]]:
    """An answer's text and its tokens; one without alternatives is given as text alone."""
    made = [token if isinstance(token, tuple) else (token, None) for token in tokens]
    return "".join(token for token, _ in made), made


def detail(*tokens: str | tuple[str, Mapping[str, float] | None]) -> float | None:
    """The expected detail of `{"detail": ...}`, these tokens being what stands between the colon and the brace."""
    text, made = answer('{"', "detail", '":', *tokens, "}")
    assert json.loads(text).keys() == {"detail"}
    expected = expected_rating(text, made)
    assert all(expected[axis] is None for axis in AXES if axis != "detail")
    return expected["detail"]


@pytest.mark.parametrize(
    "text",
    [GOOD, f"```json\n{GOOD}\n```", f"Here it is:\n{GOOD}\nI hope this helps.", json.dumps(GRADES, indent=2)],
    ids=["bare", "fenced", "in prose", "pretty"],
)
def test_a_rating_is_read(text: str) -> None:
    assert parse_rating(text) == GRADES


@pytest.mark.parametrize(
    "text",
    [
        "",
        "7",
        "All five are a 7.",
        "}{",
        "7}",
        "[7, 7, 7, 7, 7]",
        GOOD[:-1] + ",}",
        GOOD[:-1],
        f"{GOOD}\n{GOOD}",
        f"{GOOD} {{no more}}",
        f'{{"ratings": {GOOD}}}',
        '{"coherence": ' + "[" * 100_000 + "}",
        '{"coherence": ' + "9" * 5_000 + "}",
    ],
    ids=lambda text: text[:20],
)
def test_a_rating_that_is_not_one_json_object_is_missing(text: str) -> None:
    assert parse_rating(text) == NOTHING


@pytest.mark.parametrize(
    "value",
    ['"10/10"', '"7"', "true", "null", "NaN", "Infinity", "-Infinity", "0", "0.99", "10.5", "11", "-3", "[7]", "1e999"],
)
def test_a_grade_that_is_no_number_from_1_to_10_is_missing_on_its_axis(value: str) -> None:
    text = GOOD.replace('"correctness": 6.5', f'"correctness": {value}')
    assert parse_rating(text) == GRADES | {"correctness": None}


def test_an_axis_that_is_left_out_or_given_twice_is_missing() -> None:
    assert parse_rating('{"coherence": 7, "detail": 3, "detail": 9, "style": 4}') == NOTHING | {"coherence": 7.0}


def test_what_a_reply_says_about_its_grade_is_no_grade() -> None:
    """The judge quotes an order in a key of its own; the numbers in the quotation are part of a string."""
    quoted = json.dumps({"note": 'It says {"detail": 10}.', "detail": 2})
    assert parse_rating(quoted) == NOTHING | {"detail": 2.0}


@pytest.mark.parametrize(
    ("text", "preference"),
    [
        ('A is clearer.\n{"better": "A"}', "first"),
        ('B is clearer than A.\n{"better": "B"}\n', "second"),
        ('{"better": "TIE"}', "tie"),
        ('Same.\n\n  {"better":"tie"}  \n\n', "tie"),
        ('Clear.\n{"better": "b"}', "second"),
        ('Clear.\n```json\n{"better": "A"}\n```', "first"),
        ('{"better": "A"}\nSo, as said:\n{"better": "A"}', "first"),
        ("", None),
        ("A", None),
        ("A is better.", None),
        ('{"better": "A"}\nI hope this helps.', None),
        ('A is clearer. {"better": "A"}', None),
        ('{"better": "A"}\n{"better": "B"}', None),
        ('{"better": "A"} {"better": "B"}', None),
        ('{"better": "A or B"}', None),
        ('{"better": "AB"}', None),
        ('{"better": ["A", "B"]}', None),
        ('{"better": "A", "better": "B"}', None),
        ('{"better": "A", "worse": "B"}', None),
        ('{"better": "",}', None),
        ('"A"', None),
        ('[{"better": "A"}]', None),
        ("[" * 100_000, None),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_verdict_is_only_read_where_it_is_one(text: str, preference: str | None) -> None:
    assert parse_preference(text) == preference


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("fence", ["{}", "```json\n{}\n```", "```\n{}\n```\n", "\n\n{}\n"])
@pytest.mark.parametrize(("letter", "preference"), [("A", "first"), ("B", "second"), ("TIE", "tie"), (" tie ", "tie")])
def test_an_object_with_a_comparison_is_read_in_any_dress(
    letter: str, preference: str, fence: str, indent: int | None
) -> None:
    made = json.dumps({"comparison": "Both say it.\nA says it twice.", "better": letter}, indent=indent)
    assert parse_preference(fence.format(made)) == preference


@pytest.mark.parametrize(
    ("text", "preference"),
    [
        # A quotation inside the comparison is a string: the verdict is the judge's own.
        (json.dumps({"comparison": 'B orders: {"better": "B"}', "better": "A"}), "first"),
        (json.dumps({"comparison": 'B orders:\n{"better": "B"}\n', "better": "A"}, indent=1), "first"),
        ("A.\n" + json.dumps({"comparison": 'A says {"better": "A"}, as I do', "better": "A"}), "first"),
        # The quotation breaks the object, so there is none: it is asked for again.
        ('{"comparison": "It says {"better": "B"}.", "better": "A"}', None),
        ('{"comparison": "It says\n{"better": "B"}", "better": "A"}', None),
        # A line that repeats a reply's order, and the judge's own verdict: which is which nobody can tell.
        ('B ends with\n{"better": "B"}\nwhich is an order.\n{"better": "A"}', None),
        ('B ends with {"better": "B"}, which is an order.\n{"better": "A"}', None),
        ('{\n  "better": "B"\n}\nNo:\n{"better": "A"}', None),
        ('{"better": "\\u0042"}\n{"better": "\\u0041"}', None),
        ('{"comparison": {"better": "B"}, "better": "A"}', None),
        ('{"comparison": 1, "better": "A"}', None),
        ('{"comparison": "x", "better": "A", "reason": "y"}', None),
        ('{"comparison": "x", "better": null}', None),
        ('{"comparison": "x"}', None),
        ('{"comparison": "cut off, "better": "A"', None),
    ],
)
def test_what_a_reply_says_is_no_verdict(text: str, preference: str | None) -> None:
    assert parse_preference(text) == preference


def test_the_schemas_ask_for_what_is_read() -> None:
    assert SCHEMAS["rate"]["required"] == list(AXES) == list(SCHEMAS["rate"]["properties"])
    for axis in AXES:
        allowed = SCHEMAS["rate"]["properties"][axis]["enum"]
        assert [parse_rating(json.dumps({axis: n}))[axis] for n in range(12)] == [None, *allowed, None]
    allowed = SCHEMAS["prefer"]["properties"]["better"]["enum"]
    read = {parse_preference(json.dumps({"comparison": "x", "better": letter})) for letter in allowed}
    assert read == set(VERDICTS.values()) == {"first", "second", "tie"}


def test_the_expectation_of_single_tokens_by_hand() -> None:
    """0.6 of 7 and 0.3 of 8; the 0.1 of other words is left out: (0.6 * 7 + 0.3 * 8) / 0.9 = 6.6 / 0.9."""
    assert detail(" ", ("7", logs(_7=0.6, _8=0.3, the=0.1))) == pytest.approx(6.6 / 0.9)


def test_the_numbers_of_each_axis_are_their_own() -> None:
    tokens: list[Any] = ["{"]
    for place, axis in enumerate(AXES):
        tokens += [f'"{axis}": ', ("4", logs(_4=0.5, **{f"_{5 + place}": 0.5})), ", " if axis != "detail" else "}"]
    text, made = answer(*tokens)
    assert expected_rating(text, made) == {axis: pytest.approx((9 + i) / 2) for i, axis in enumerate(AXES)}


@pytest.mark.parametrize("lead", [" ", ":", ": ", '": '])
def test_a_token_that_begins_before_the_number(lead: str) -> None:
    """(0.5 * 9 + 0.25 * 10 + 0.25 * 3) = 7.75, whatever the token starts with."""
    top = {f"{lead}9": math.log(0.5), f"{lead}10": math.log(0.25), f"{lead}3": math.log(0.25)}
    before = '":'.removesuffix(lead.rstrip())
    text, made = answer('{"', "detail", before, (f"{lead}9", top), "}")
    assert expected_rating(text, made)["detail"] == pytest.approx(7.75)


def test_a_space_more_or_less_is_no_other_number() -> None:
    """Where " 7" was chosen, the mass of "7" counts too, and the other way round: (0.8 * 7 + 0.2 * 9) = 7.4."""
    top = {" 7": math.log(0.5), "7": math.log(0.3), " 9": math.log(0.1), "9": math.log(0.1)}
    assert detail((" 7", top)) == pytest.approx(7.4)
    assert detail(" ", ("7", top)) == pytest.approx(7.4)


def test_a_colon_that_an_alternative_lacks_makes_it_another_text() -> None:
    """Only ": 7" continues the key as a number; "7" would not be JSON. (0.6 * 7 + 0.2 * 5) / 0.8 = 6.5."""
    top = {": 7": math.log(0.6), "7": math.log(0.1), ":8": math.log(0.1), ": 5": math.log(0.2)}
    text, made = answer('{"', "detail", '"', (": 7", top), "}")
    assert expected_rating(text, made)["detail"] == pytest.approx(6.5)


def test_ten_as_one_token_beside_a_one() -> None:
    """A tokenizer that has "10" means 1 by "1": (0.5 * 10 + 0.5 * 1) = 5.5, from either side."""
    top = logs(_10=0.5, _1=0.5)
    assert detail(" ", ("10", top)) == pytest.approx(5.5)
    assert detail(" ", ("1", top)) == pytest.approx(5.5)


def test_ten_as_two_tokens_where_the_one_was_chosen() -> None:
    """0.7 of "1", then 0.9 of "0": 10 has 0.63 and 1 has 0.07; with 0.3 of 8 (0.63 * 10 + 0.07 + 0.3 * 8) = 8.77."""
    one, zero = ("1", logs(_1=0.7, _8=0.3)), logs(_0=0.9, **{",": 0.1})
    assert detail(" ", one, ("0", zero)) == pytest.approx(8.77)
    # The same probabilities, where the answer goes on with what was less likely: no 0 follows.
    assert detail(" ", one, (" ", zero)) == pytest.approx(8.77)


def test_a_zero_may_end_its_token_with_what_follows() -> None:
    """After a certain "1", 0.5 of "0" and 0.4 of "0}": 10 has 0.9 and 1 has 0.1, together 9.1."""
    assert detail(" ", ("1", logs(_1=1)), ("0", logs(_0=0.5, **{"0}": 0.4, "}": 0.1}))) == pytest.approx(9.1)


def test_a_one_whose_next_token_is_not_known_may_be_a_ten() -> None:
    one = ("1", logs(_1=0.7, _8=0.3))
    assert detail(" ", one, "0") is None
    assert detail(" ", one) is None
    assert detail(" ", ("1", logs(_8=0.995, _1=0.005))) == pytest.approx(8)


def test_more_than_all_of_what_follows_is_all() -> None:
    """Rounded log-probabilities may add up to more than 1; the 10 takes no more than the "1" had: mean 10."""
    assert detail(" ", ("1", {"1": 0.0}), ("0", {"0": 0.0, "0,": math.log(0.2)})) == pytest.approx(10)


def test_a_one_that_was_not_chosen_is_left_out_while_it_hardly_weighs() -> None:
    """At 0.009 it is left out: (0.6 * 7 + 0.391 * 8) / 0.991. At 0.02 it might be a 10, so there is no mean."""
    assert detail(" ", ("7", logs(_7=0.6, _8=0.391, _1=0.009))) == pytest.approx((4.2 + 3.128) / 0.991)
    assert detail(" ", ("7", logs(_7=0.6, _8=0.38, _1=0.02))) is None
    # With a "10" among them it is a 1: (0.6 * 7 + 0.37 * 8 + 0.02 * 1 + 0.01 * 10) / 1.
    assert detail(" ", ("7", logs(_7=0.6, _8=0.37, _1=0.02, _10=0.01))) == pytest.approx(7.28)


def test_a_ten_that_is_not_among_its_alternatives_is_not_taken_for_its_one() -> None:
    """A server that lists a "1" and not the "10" it chose: what follows the 10 says nothing about the 1."""
    assert detail(" ", ("10", logs(_1=0.6, _9=0.4)), (" ", logs(_0=0.001, **{",": 0.9}))) is None


def test_alternatives_that_are_no_ratings_do_not_count() -> None:
    """Of 7, 0, 11, 100, 7.5, "x" and a digit of another script only the 7 and the 5: (0.5 * 7 + 0.1 * 5) / 0.6."""
    top = logs(_7=0.5, _5=0.1, _0=0.1, _11=0.1, _100=0.05, **{"7.5": 0.05, "x": 0.04, "٧": 0.03, "": 0.02})
    assert detail(" ", ("7", top)) == pytest.approx(4.0 / 0.6)


def test_less_than_half_of_the_probability_is_no_rating() -> None:
    assert detail(" ", ("7", logs(_7=0.3, _8=0.2, x=0.5))) == pytest.approx((2.1 + 1.6) / 0.5)
    assert detail(" ", ("7", logs(_7=0.3, _8=0.19, x=0.51))) is None


@pytest.mark.parametrize("tokens", [None, []])
def test_without_tokens_there_is_no_expectation(tokens: Any) -> None:
    assert expected_rating('{"detail": 7}', tokens) == NOTHING


@pytest.mark.parametrize("top", [None, {}, {"7": float("nan")}, {"7": float("-inf")}])
def test_a_number_without_probabilities(top: Any) -> None:
    assert detail(" ", ("7", top)) is None


def test_tokens_of_another_text_say_nothing() -> None:
    text, made = answer('{"detail": ', ("7", logs(_7=1)), "}")
    assert expected_rating(text, made)["detail"] == 7
    for other in (text + "\n", text[:-1], text.replace("7", "8"), ""):
        assert expected_rating(other, made) == NOTHING
    # The number is the same, only a space before it is more or less.
    text, made = answer('{"detail":', ("7", logs(_7=0.5, _8=0.5)), ("}", logs(_9=1)))
    assert expected_rating(text, made)["detail"] == pytest.approx(7.5)
    for other in ('{"detail": 7}', '{ "detail":7}', '{"detail" : 7}'):
        assert expected_rating(other, made) == NOTHING


def test_a_fence_that_only_the_tokens_have_moves_nothing() -> None:
    """Some servers cut it off the text: (0.5 * 2 + 0.5 * 3) = 2.5, from the token that stands at the number."""
    text, made = answer('{"detail": ', ("2", logs(_2=0.5, _3=0.5)), "}")
    fence = [("``", None), ("`json", None), ("\n", None), ("7", logs(_7=1)), ("\n", None)]
    assert expected_rating(text, [*fence, *made, ("\n```", None)])["detail"] == pytest.approx(2.5)
    assert expected_rating(text.replace("2", "3"), [*fence, *made]) == NOTHING


@pytest.mark.parametrize(
    "tokens",
    [
        [" ", ("7", logs(_7=1)), ".", "5"],
        [" ", ("7", logs(_7=1)), ".", "0"],
        [" ", ("7", logs(_7=1)), "e", "0"],
        [" ", ("7", logs(_7=1)), "E", "0"],
        [" ", ("1", logs(_1=1)), ("1", logs(_1=1))],
        [" ", ("10", logs(_10=1)), "0"],
        [" ", ("0", logs(_0=0.5, _7=0.5))],
        [" ", "-", ("7", logs(_7=1))],
        [' "', ("7", logs(_7=1)), '"'],
        [" [", ("7", logs(_7=1)), "]"],
    ],
    ids=lambda tokens: answer(*tokens)[0].strip(),
)
def test_what_is_no_whole_number_from_1_to_10_has_no_expectation(tokens: list[Any]) -> None:
    assert detail(*tokens) is None


def test_an_axis_twice_has_no_expectation() -> None:
    seven = ("7", logs(_7=1))
    text, made = answer('{"detail": ', seven, ', "coherence": ', seven, ', "detail": ', seven, "}")
    assert expected_rating(text, made) == NOTHING | {"coherence": 7}


def test_the_number_of_another_object_is_not_taken() -> None:
    """`detail` is 4.5 where it counts; the 3 stands in an object inside. And 3 where both stand: which is which?"""
    text, made = answer('{"x": {"detail": ', ("3", logs(_3=1)), '}, "detail": ', ("4", logs(_4=1)), ".5}")
    assert parse_rating(text) == NOTHING | {"detail": 4.5}
    assert expected_rating(text, made) == NOTHING
    text, made = answer('{"x": {"detail": ', ("3", logs(_3=0.5, _9=0.5)), '}, "detail": ', ("3", logs(_3=1)), "}")
    assert parse_rating(text) == NOTHING | {"detail": 3}
    assert expected_rating(text, made) == NOTHING


@pytest.mark.parametrize("written", range(1, 11))
@pytest.mark.parametrize("dress", ["{}", "```json\n{}\n```", "My grades:\n{}"])
def test_all_of_the_probability_on_the_written_number_is_that_number(written: int, dress: str) -> None:
    """By a tokenizer with a token for each number, by one with a token for each digit, with and without a space."""
    head, tail = dress.split("{}")
    whole, one, nought = ({str(written): 0.0}, {str(written)[0]: 0.0}, {"0": 0.0} if written == 10 else {"}": 0.0})
    spaced = {f" {written}": 0.0}
    digits: list[Any] = [('": '), (str(written)[0], one)]
    single: list[Any] = ['": ', (str(written), whole)]
    # A "1" without a "10" beside it is told from a 10 by what follows.
    digits += [("0", nought), "}"] if written == 10 else [("}", nought)]
    single += [("}", nought)] if written == 1 else ["}"]
    joined: list[Any] = ['":', (f" {written}", spaced), ("}", nought)]
    for tokens in (digits, single, joined):
        text, made = answer(head, '{"', "detail", *tokens, tail)
        assert expected_rating(text, made) == NOTHING | {"detail": pytest.approx(written)}


def test_an_expectation_lies_within_the_grades_and_their_alternatives() -> None:
    """2000 random answers of all three tokenizers: never outside 1..10, never outside what has probability."""
    draw = random.Random(0)
    found = 0
    for _ in range(2000):
        written = draw.randint(1, 10)
        names = [str(n) for n in draw.sample(range(12), 6)] + draw.sample(["x", ",", "seven", "0", "1"], 2)
        weights = [draw.random() ** 4 for _ in names]
        left = draw.uniform(0.4, 1.05)
        top = {name: math.log(left * w / sum(weights)) for name, w in zip(names, weights, strict=True)}
        lead = draw.choice(["", " "])
        after = draw.choice([None, {"0": math.log(draw.random()), "}": math.log(0.1)}])
        chosen = str(written) if draw.random() < 0.5 else str(written)[0]
        rest = str(written)[len(chosen) :]
        number = (lead + chosen, {lead + name: value for name, value in top.items()})
        value = detail(*([] if lead else [" "]), number, *([(rest, after)] if rest else [(" ", after)]))
        if value is not None:
            found += 1
            possible = [n for n in range(1, 11) if str(n) in top or (n == 10 and "1" in top)]
            assert min(possible) - 1e-9 <= value <= max(possible) + 1e-9
    assert found > 500


@pytest.mark.parametrize("follows", ["0", "}"])
def test_what_the_book_keeps_of_an_answer_tells_a_one_from_a_ten(follows: str) -> None:
    """A tokenizer of digits that wavers between 10 and 1: 0.6 * 10 + 0.4 * 1 = 6.4, whichever of the two it wrote.

    The alternatives of words are not kept, but those of what stands behind a 1 are, whatever it is.
    """
    behind = Token(follows, top=(("0", math.log(0.6)), ("}", math.log(0.4))))
    number = Token("1", top=(("1", 0.0),))
    tokens = [Token('{"'), Token("detail"), Token('": '), number, behind, *([Token("}")] if follows == "0" else [])]
    made = completion({"logprobs": True, "top_logprobs": 20}, Answer(tokens=tokens))
    choice = ChatCompletion.model_validate(made | {"model": "m"}).choices[0]
    kept = book._alternatives(choice)
    assert kept is not None and [top is not None for _, top in kept][:5] == [False, False, False, True, True]
    assert expected_rating(str(choice.message.content), kept) == NOTHING | {"detail": pytest.approx(6.4)}


@pytest.mark.parametrize(
    ("text", "preference"),
    [
        ("My final verdict is tie: [[A=B]]", "tie"),
        ("[[A>>B]]", "first"),
        ("Assistant B is better.\n[[B>A]]", "second"),
        ("[[B>>A]] as I said: [[B>>A]]", "second"),
        ("[[A]]", "first"),
        ("[[B]]", "second"),
        ("[[C]]", "tie"),
        ("[[A>B]] or rather [[B>A]]", None),
        ("[[A>B]] [[7]]", None),  # an echo of something else in brackets leaves it open
        ("[A>B]", None),
        ("A>B", None),
        ("[[A<B]]", None),
        ("[[a]]", None),
        ("[[]]", None),
        ("", None),
    ],
)
def test_a_verdict_in_double_brackets(text: str, preference: str | None) -> None:
    assert parse_brackets(text) == preference
