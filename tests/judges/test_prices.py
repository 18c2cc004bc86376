"""What calls cost: prices found in a file, and sums by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tr_align.errors import UserError
from tr_align.judges import prices
from tr_align.judges.prices import PACKAGED, Price, dollars, load, tokens_of
from tr_align.settings import OpenAIJudge

ROOT = Path(__file__).parents[2]


def own(folder: Path, text: str) -> str:
    path = folder / "own.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def refusal(path: str) -> str:
    with pytest.raises(UserError) as caught:
        load(path, "m", batch=False)
    message = str(caught.value)
    assert message.startswith("judge.openai.prices: ") and path in message and PACKAGED in message
    assert "\n" not in message
    return message


def test_the_packaged_prices_are_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert OpenAIJudge(model="x").prices == PACKAGED
    monkeypatch.chdir(ROOT)
    here = load(PACKAGED, "gpt-4o-mini", batch=False)
    monkeypatch.chdir(tmp_path)
    assert load(PACKAGED, "gpt-4o-mini", batch=False) == here == Price(0.15, 0.60)


def test_a_file_in_the_place_of_the_packaged_one_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / PACKAGED).parent.mkdir(parents=True)
    (tmp_path / PACKAGED).write_text("models: {gpt-4o-mini: {input: 7, output: 9}}")
    assert load(PACKAGED, "gpt-4o-mini", batch=False) == Price(7, 9)


def test_every_packaged_price_is_one() -> None:
    models = yaml.safe_load((ROOT / PACKAGED).read_text(encoding="utf-8"))["models"]
    assert len(models) > 5
    for model in models:
        price = load(str(ROOT / PACKAGED), model, batch=False)
        # Output costs more than input at every provider; the other way round is a slip.
        assert price is not None and 0 < price.input < price.output < 1000


def test_a_dated_model_is_found_under_its_own_name_first_then_without_the_date(tmp_path: Path) -> None:
    path = own(
        tmp_path,
        "models:\n  m: {input: 1, output: 2}\n  m-2024-05-13: {input: 5, output: 15}\n"
        "  n-0125: {input: 3, output: 4}\n",
    )
    assert load(path, "m", batch=False) == Price(1, 2)
    assert load(path, "m-2024-08-06", batch=False) == Price(1, 2)
    assert load(path, "m-2024-05-13", batch=False) == Price(5, 15)
    assert load(path, "n-0125", batch=False) == Price(3, 4)
    # No other ending is taken off: these may be other models.
    for name in ("n", "m-mini", "m-2024-08-06-preview", "2024-08-06", "m-20240806", "M", "x-m", ""):
        assert load(path, name, batch=False) is None


@pytest.mark.parametrize(
    ("discount", "expected"),
    [("", Price(1, 2)), ("batch_discount: 0.25\n", Price(0.5, 1)), ("batch_discount: 0\n", Price(0, 0))],
)
def test_the_batch_discount_is_a_factor_on_both_prices(tmp_path: Path, discount: str, expected: Price) -> None:
    """Of 2 and 4 dollars: half by default, a quarter, nothing."""
    path = own(tmp_path, discount + "models: {m: {input: 2, output: 4}}")
    assert load(path, "m", batch=True) == expected
    assert load(path, "m", batch=False) == Price(2, 4)
    assert load(path, "n", batch=True) is None


def test_a_server_of_ones_own_costs_nothing(tmp_path: Path) -> None:
    price = load(own(tmp_path, "models: {m: {input: 0, output: 0}}"), "m", batch=False)
    assert price == Price(0, 0) and price.of(10**9, 10**9) == 0


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "all of it: "),
        ("- m\n", "all of it: "),
        ("models: {m: {input: 1}}", "models.m.output: Field required"),
        ("models: {m: {input: 1, output: 2, cached: 3}}", "models.m.cached: "),
        ("models: {m: 3}", "models.m: "),
        ("models: {m: {input: -1, output: 2}}", "models.m.input: "),
        ("models: {m: {input: .inf, output: 2}}", "models.m.input: "),
        ("models: {m: {input: .nan, output: 2}}", "models.m.input: "),
        ("models: {m: {input: free, output: 2}}", "models.m.input: "),
        ("models: {m: {input: 1, output: 2}}\nmodel: {}", "model: "),
        ("batch_discount: 1.5\nmodels: {}", "batch_discount: "),
        ("models: {m: {input: 1, output: 2}", "own.yaml is no price list (while parsing"),
        ("\tmodels: 1", "own.yaml is no price list (while scanning"),
    ],
)
def test_a_file_that_is_no_price_list(tmp_path: Path, text: str, complaint: str) -> None:
    message = refusal(own(tmp_path, text))
    assert complaint in message and message.endswith(f"; see {PACKAGED} for the form")


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "prices.yaml"
    path.write_bytes(b"models: \xff")
    refusal(str(path))
    refusal(str(tmp_path))


@pytest.mark.parametrize("name", ["nowhere.yaml", "tr_align/prices.yaml", "x/src/tr_align/judges/prices.yaml"])
def test_a_file_that_is_not_there_is_not_replaced_by_the_packaged_one(tmp_path: Path, name: str) -> None:
    path = str(tmp_path / name)
    assert refusal(path).endswith(f"there is no file {path}; the default is {PACKAGED}")


def test_a_cost_by_hand() -> None:
    """2000 tokens at $2.50 a million are $0.005, 300 at $10 are $0.003."""
    assert Price(2.5, 10).of(2000, 300) == pytest.approx(0.008)
    assert Price(2.5, 10).of(0, 0) == 0
    assert Price(2.5, 10).of(1e6, 0) == 2.5 and Price(2.5, 10).of(0, 1e6) == 10


def test_four_bytes_are_about_a_token() -> None:
    """A Chinese character has three bytes, an emoji four; half of a pair counts as one."""
    assert prices.BYTES_A_TOKEN == 4
    assert [tokens_of(text) for text in ("", "abcd" * 25, "世世世世", "\U0001f600", "abc\ud83d")] == [0, 25, 3, 1, 1]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "$0.00"),
        (0.000005, "$0.000005"),
        (0.00004249, "$0.000042"),
        (0.0042, "$0.0042"),
        (0.0999, "$0.1"),
        (0.1, "$0.10"),
        (0.996, "$1.00"),
        (1.384, "$1.38"),
        (99.9, "$99.90"),
        (100, "$100"),
        (119.6, "$120"),
        (1234567.8, "$1,234,568"),
    ],
)
def test_dollars_have_two_digits_that_mean_something(value: float, text: str) -> None:
    assert dollars(value) == text
