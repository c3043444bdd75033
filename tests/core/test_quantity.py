from collections.abc import Callable
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extender.core import quantity
from extender.core.quantity import (
    QuantityError,
    bandwidth_bytes_s,
    footprint_bytes,
    format_mib,
    fraction,
    mib_up,
    milli,
    need_mib,
    parse,
    whole,
)

GI = 1024**3
INT64_MAX = 2**63 - 1
SCALES = {
    "": Fraction(1),
    "n": Fraction(1, 10**9),
    "u": Fraction(1, 10**6),
    "m": Fraction(1, 1000),
    "k": Fraction(10**3),
    "M": Fraction(10**6),
    "G": Fraction(10**9),
    "T": Fraction(10**12),
    "P": Fraction(10**15),
    "E": Fraction(10**18),
    "Ki": Fraction(2**10),
    "Mi": Fraction(2**20),
    "Gi": Fraction(2**30),
    "Ti": Fraction(2**40),
    "Pi": Fraction(2**50),
    "Ei": Fraction(2**60),
    "e3": Fraction(10**3),
    "E-2": Fraction(1, 100),
    "e+6": Fraction(10**6),
}

numbers = st.builds(
    lambda left, right: f"{left}.{right}" if right else str(left),
    st.integers(0, 10**9),
    st.text("0123456789", max_size=6),
)


def refusal(read: Callable[[object], object], text: object) -> str:
    """What is said against the text; nothing when it is read."""
    try:
        read(text)
    except QuantityError as refused:
        return str(refused)
    return ""


@given(st.sampled_from(["", "+", "-"]), numbers, st.sampled_from(sorted(SCALES)))
def test_every_suffix_is_read_exactly(sign: str, number: str, suffix: str) -> None:
    exact = Fraction(number) * SCALES[suffix]
    assert parse(sign + number + suffix) == (-exact if sign == "-" else exact)


@given(numbers, st.sampled_from(sorted(SCALES)))
def test_whole_and_milli_round_up_and_stay_within_int64(number: str, suffix: str) -> None:
    exact = parse(number + suffix)
    value, thousandths = whole(number + suffix), milli(number + suffix)
    assert value == INT64_MAX or value - 1 < exact <= value
    assert thousandths == INT64_MAX or thousandths - 1 < exact * 1000 <= thousandths
    assert whole("-" + number + suffix) == -value


@given(st.integers(-(2**70), 2**70))
def test_a_number_and_its_spelling_are_the_same_quantity(number: int) -> None:
    assert parse(number) == parse(str(number)) == number
    assert whole(number) == whole(str(number)) == max(-INT64_MAX, min(number, INT64_MAX))
    assert milli(number) == milli(str(number))


@given(st.floats(min_value=1e-30, max_value=1e30))
def test_a_float_counts_as_it_is_spelled(number: float) -> None:
    assert parse(number) == Fraction(repr(number))


@pytest.mark.parametrize(
    ("text", "value"),
    [("1", 1), ("100m", 1), ("1.5", 2), ("1k", 1000), ("2Ki", 2048), ("1E", 10**18), ("1e3", 1000)],
)
def test_counts_of_resources_are_read_as_the_api_server_reads_them(text: str, value: int) -> None:
    assert whole(text) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [("1", 1000), ("250m", 250), ("0.5", 500), ("1u", 1), ("0.0001", 1), (2, 2000)],
)
def test_cpu_is_counted_in_thousandths(text: object, value: int) -> None:
    assert milli(text) == value


@pytest.mark.parametrize(
    "text",
    [
        *["", " ", "1 ", " 1", "1\n", "+", "-", ".", "G", "Gi", "1K", "1gi", "1GB", "1 G", "0x10"],
        *["1_000", "1,5", "--1", "1e", "1e1.5", "1Gi1", "1e3G", "nan", "inf", "\u0661", None, True],
        *[[], {}, b"1", float("nan"), float("inf"), "9e999999999", "1e-999999999", "1" * 65],
        -(10**64),
        pytest.param(10**5000, id="10^5000"),
    ],
)
def test_what_is_no_quantity_is_refused_in_one_short_line(text: object) -> None:
    for read in (parse, whole, milli, footprint_bytes, bandwidth_bytes_s):
        with pytest.raises(QuantityError) as refused:
            read(text)
        message = str(refused.value)
        assert message.isprintable()
        assert len(message) < 200


@given(st.text())
def test_no_text_whatever_breaks_the_reading(text: str) -> None:
    for read in (parse, whole, milli, footprint_bytes, bandwidth_bytes_s, fraction):
        assert refusal(read, text).isprintable()


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("9.6G", 9_600_000_000),
        ("9600M", 9_600_000_000),
        ("9Gi", 9 * GI),
        ("13400Mi", 13400 * 1024**2),
        ("1e10", 10**10),
        (1e10, 10**10),
        (9_600_000_000, 9_600_000_000),
        ("1Mi", 1024**2),
        ("1Ti", 1024**4),
        ("1048576.5", 1024**2 + 1),
    ],
)
def test_a_footprint_is_exact_to_the_byte_and_rounded_up(text: object, count: int) -> None:
    assert footprint_bytes(text) == count


@pytest.mark.parametrize(
    ("text", "instead"),
    [
        ("9.6", "write 9.6G (or 9.6Gi)"),
        (9.6, "write 9.6G (or 9.6Gi)"),
        ("9.6GB", "write 9.6G (or 9.6Gi)"),
        ("9.6 G", "write 9.6G (or 9.6Gi)"),
        ("9.6gb", "write 9.6G (or 9.6Gi)"),
        ("9.6Gb", "write 9.6G (or 9.6Gi)"),
        ("9.6G\n", "write 9.6G (or 9.6Gi)"),
        ("9,6g", "write 9.6G (or 9.6Gi)"),
        ("9.6 GiB", "write 9.6Gi"),
        ("13400MB", "write 13400M (or 13400Mi)"),
        ("13400m", "write 13400M (or 13400Mi)"),
        ("13400", "write 13400M (or 13400Mi)"),
        ("9", "write 9G (or 9Gi)"),
        (80, "write 80G (or 80Gi)"),
        ("1TB", "write 1T (or 1Ti)"),
    ],
)
def test_a_misspelt_footprint_is_refused_and_the_right_spelling_named(
    text: object, instead: str
) -> None:
    with pytest.raises(QuantityError) as refused:
        footprint_bytes(text)
    assert str(refused.value).startswith(repr(text))
    assert str(refused.value).endswith(instead)


@given(
    st.decimals(0, 10**7, places=3, allow_nan=False, allow_infinity=False),
    st.sampled_from(["", " "]),
    st.sampled_from(["", "k", "m", "g", "K", "M", "G", "T", "gi", "Mi", "P"]),
    st.sampled_from(["", "b", "B", "/s"]),
)
def test_a_spelling_we_advise_is_one_we_accept(
    number: object, gap: str, unit: str, tail: str
) -> None:
    for read in (footprint_bytes, bandwidth_bytes_s):
        advice = refusal(read, f"{number}{gap}{unit}{tail}").rpartition(": write ")[2]
        advice = advice.removeprefix("a quantity such as ").partition(",")[0]
        for spelling in advice.replace("(or ", "").replace(")", "").split():
            assert read(spelling) >= quantity.MIB


@pytest.mark.parametrize(
    "text", ["0", "0G", "-9G", "0.5Mi", "500k", "2Ti", "1025Gi", "1e30", 2**41]
)
def test_a_footprint_no_model_has_is_refused(text: object) -> None:
    with pytest.raises(QuantityError, match=r"write a quantity such as 9\.6G"):
        footprint_bytes(text)


def test_bandwidth_is_bytes_per_second() -> None:
    assert bandwidth_bytes_s("500G") == 500 * 10**9
    assert bandwidth_bytes_s("1.5T") == 1_500 * 10**9


@pytest.mark.parametrize(
    ("text", "instead"),
    [
        ("500", "write 500G (or 500Gi)"),
        ("3350", "write 3350G (or 3350Gi)"),
        ("500 GB/s", "write 500G (or 500Gi)"),
        ("2TB/s", "write 2T (or 2Ti)"),
        ("0", "write a quantity such as 500G"),
        ("-1G", "write a quantity such as 500G"),
    ],
)
def test_a_misspelt_bandwidth_is_refused_and_the_right_spelling_named(
    text: str, instead: str
) -> None:
    with pytest.raises(QuantityError) as refused:
        bandwidth_bytes_s(text)
    assert str(refused.value).endswith(instead)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("30%", Fraction(3, 10)),
        ("0.3", Fraction(3, 10)),
        (0.3, Fraction(3, 10)),
        (".5%", Fraction(1, 200)),
        ("0", Fraction(0)),
        (0, Fraction(0)),
        ("0%", Fraction(0)),
        ("100%", Fraction(1)),
        (1, Fraction(1)),
        ("1000%", Fraction(10)),
        (1e-05, Fraction(1, 100_000)),
    ],
)
def test_headroom_is_a_percentage_or_a_fraction(text: object, value: Fraction) -> None:
    assert fraction(text) == value


@pytest.mark.parametrize(
    ("text", "instead"),
    [
        (20, "write 20%"),
        ("20", "write 20%"),
        ("10.5", "write 10.5%"),
        ("1001%", "at most 1000%"),
        (5000, "at most 1000%"),
        (1e300, "at most 1000%"),
        ("-0.1", "from 0 to 1000%"),
        ("30 %", "from 0 to 1000%"),
        ("30%%", "from 0 to 1000%"),
        ("1e1", "from 0 to 1000%"),
        ("a lot", "from 0 to 1000%"),
        (float("nan"), "from 0 to 1000%"),
        (None, "write 30% or 0.3"),
        (True, "write 30% or 0.3"),
        ([], "write 30% or 0.3"),
    ],
)
def test_other_headroom_is_refused_with_a_good_value(text: object, instead: str) -> None:
    with pytest.raises(QuantityError) as refused:
        fraction(text)
    assert str(refused.value).endswith(instead)


@given(st.integers(1, 1024**4), st.fractions(0, 10, max_denominator=1000))
def test_need_is_footprint_plus_headroom_in_mib_rounded_up(
    footprint: int, headroom: Fraction
) -> None:
    need = need_mib(footprint, headroom)
    exact = footprint * (1 + headroom) / 1024**2
    assert need - 1 < exact <= need
    assert need >= mib_up(footprint) >= footprint / 1024**2


def test_the_need_of_the_first_example() -> None:
    assert need_mib(footprint_bytes("9.6G"), fraction("20%")) == 10987
    assert format_mib(11000) == "11000Mi"
