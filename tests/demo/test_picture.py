import re
from fractions import Fraction
from io import BytesIO, TextIOWrapper
from typing import TextIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extender.core.catalogue import PRODUCTS, layouts
from extender.demo import paint
from extender.demo.hardware import Gpu, cut
from extender.demo.kubelet import Spot
from extender.demo.loading import load, policy_of
from extender.demo.outcome import PodOutcome, Run
from extender.demo.picture import ASCII, BLOCKS, Ink, bar_unit, bars, filled
from extender.demo.report import Report, as_json, lines, report

A100 = PRODUCTS["A100-80GB"]
SAVING = "4,320 → 2,880 $ a month, \N{MINUS SIGN}1,440 $"
ANSI = re.compile(r"\x1b\[[0-9;]*m")


def pod(
    name: str, gigabytes: str | None, *, node: str = "gpu-node", reason: str = ""
) -> PodOutcome:
    size = None if gigabytes is None else int(Fraction(gigabytes) * 10**9)
    decision = {"action": "rewritten", "reason": reason, "message": "need fits"} if reason else {}
    return PodOutcome(
        name=name,
        title=name.upper(),
        namespace="default",
        footprint_bytes=size,
        node=node,
        decision=decision,
    )


LLM, ASR, TTS = pod("llm", "73.2"), pod("asr", "9.6"), pod("tts", "13.4")


def run(name: str, second: list[str] | str, held: dict[tuple[int, int], str]) -> Run:
    cards = tuple(
        cut("gpu-node", index, A100, layout)
        for index, layout in enumerate(["whole", second, "whole"])
    )
    spots = {Spot("gpu-node", *at): name for at, name in held.items()}
    return Run(name, cards, spots, (LLM, ASR, TTS))


BEFORE = run("", "whole", {(0, 0): "llm", (1, 0): "asr", (2, 0): "tts"})
HALVES = run("halves", ["3g.40gb", "3g.40gb"], {(0, 0): "llm", (1, 0): "asr", (1, 1): "tts"})
QUARTERS = run(
    "quarters", ["3g.40gb", "2g.20gb", "2g.20gb"], {(0, 0): "llm", (1, 0): "asr", (1, 1): "tts"}
)


@pytest.fixture
def hollow() -> Report:
    scenario = load("hollow-gpu")
    return report(scenario, policy_of(scenario), BEFORE, [HALVES, QUARTERS])


def drawn(picture_of: Run, hollow_pods: tuple[str, ...] = (), **options: object) -> str:
    page = bars(picture_of, hollow_pods, **options)  # type: ignore[arg-type]
    return paint.text(page)


def test_before_the_small_models_hold_hollow_cards() -> None:
    assert drawn(BEFORE, ("asr", "tts")) == (
        """\
 gpu-node  A100-80GB
         LLM  73.2 of 80 GB
 GPU 0  ┃█████████████████████████████████████████████████████████▋/////┃
         ASR  9.6 of 80 GB
 GPU 1  ┃███████▌///////////////////////////////////////////////////////┃ hollow
         TTS  13.4 of 80 GB
 GPU 2  ┃██████████▌////////////////////////////////////////////////////┃ hollow
        0               20              40              60              80 GB
""".replace("/", BLOCKS.untouched)
    )


def test_slices_are_cut_where_they_really_lie() -> None:
    assert drawn(QUARTERS).splitlines()[3:6] == [
        "         ASR 9.6 of 20   TTS 13.4 of 20  3g.40gb free",
        " GPU 1  ┃███████▎///////┃██████████/////┃·······························┃".replace(
            "/", BLOCKS.untouched
        ),
        " GPU 2  ┃·······························································┃ free",
    ]


def test_memory_that_belongs_to_no_slice_is_blank() -> None:
    seven = cut("n", 0, A100, ["1g.10gb"] * 7)
    bar = drawn(Run("", (seven,), {}, ())).splitlines()[2]
    assert bar == " GPU 0  ┃" + "·······┃" * 7 + "       ┃"


def test_a_card_in_mig_mode_without_slices_is_blank() -> None:
    empty = cut("n", 0, A100, [])
    assert drawn(Run("", (empty,), {}, ())).splitlines()[2] == " GPU 0  ┃" + " " * 63 + "┃"


def test_use_that_is_not_known_is_never_drawn_as_empty() -> None:
    card = cut("n", 0, A100, "whole")
    picture = drawn(Run("", (card,), {Spot("n", 0, 0): "x"}, (pod("x", None),)))
    assert "? of 80 GB" in picture
    assert "?" * 63 in picture


def test_a_node_that_nobody_uses_is_called_idle_and_a_scale_serves_equal_nodes() -> None:
    cards = (cut("a", 0, A100, "whole"), cut("b", 0, A100, "whole"))
    picture = drawn(Run("", cards, {Spot("a", 0, 0): "llm"}, (LLM,)))
    assert " a  A100-80GB\n" in picture
    assert " b  A100-80GB  idle\n" in picture
    assert picture.count("80 GB\n") == 2  # the label of the pod, and one scale


@given(st.fractions(0, 2), st.integers(1, 100), st.sampled_from([BLOCKS, ASCII]))
def test_a_bar_never_overflows_and_never_looks_empty(
    fraction: Fraction, columns: int, glyphs: object
) -> None:
    bar = filled(fraction, columns, glyphs)  # type: ignore[arg-type]
    assert 1 <= len(bar) <= columns


@given(st.fractions(0, 1), st.fractions(0, 1), st.integers(1, 100))
def test_more_memory_never_draws_a_shorter_bar(
    one: Fraction, other: Fraction, columns: int
) -> None:
    less, more = sorted((one, other))

    def parts(fraction: Fraction) -> int:
        bar = filled(fraction, columns)
        return sum(8 if c == BLOCKS.full else BLOCKS.parts.index(c) + 1 for c in bar)

    assert parts(less) <= parts(more)


@st.composite
def runs(draw: st.DrawFn) -> Run:
    product = draw(st.sampled_from([*PRODUCTS.values()]))
    cards: list[Gpu] = []
    for index in range(draw(st.integers(1, 3))):
        layout = draw(st.sampled_from(layouts(product)))
        profiles = [name for name, _ in layout.placements]
        cards.append(cut("node", index, product, draw(st.sampled_from(["whole", profiles]))))
    held, pods = {}, []
    for card in cards:
        for position in range(len(card.pieces)):
            if draw(st.booleans()):
                name = f"p{card.index}-{position}"
                held[Spot("node", card.index, position)] = name
                pods.append(pod(name, draw(st.sampled_from(["0.1", "7", "80", "500", None]))))
    return Run("layout", tuple(cards), held, tuple(pods))


@given(runs(), st.integers(40, 200), st.sampled_from([BLOCKS, ASCII]))
def test_every_bar_is_equally_long_and_fits_the_terminal(
    picture_of: Run, width: int, glyphs: object
) -> None:
    picture = drawn(picture_of, width=width, glyphs=glyphs).splitlines()
    bar_lines = [line for line in picture if line.startswith(" GPU ")]
    assert len(bar_lines) == len(picture_of.gpus)
    edge = BLOCKS.edge if glyphs is BLOCKS else ASCII.edge
    assert {line.rindex(edge) for line in bar_lines} == {8 + 8 * bar_unit(width)}
    assert all(len(line) <= width for line in bar_lines)
    assert all(len(line) <= width for line in picture if "GB" not in line)


@given(runs())
def test_bars_read_the_same_with_and_without_colour(picture_of: Run) -> None:
    page = bars(picture_of, ())
    colour = paint.text(page, colour=True)
    assert "\x1b" in colour
    assert [line.rstrip() for line in ANSI.sub("", colour).splitlines()] == paint.text(
        page
    ).splitlines()


def test_the_page_is_at_most_80_columns_wide(hollow: Report) -> None:
    assert max(map(len, paint.text(lines(hollow)).splitlines())) <= 80


def test_the_page_in_ascii_is_ascii(hollow: Report) -> None:
    page = paint.text(lines(hollow, glyphs=ASCII), ascii_only=True)
    assert page.isascii()
    assert "4,320 -> 2,880 $ a month, -1,440 $" in page


def test_a_name_cannot_steer_the_terminal() -> None:
    assert "\x1b" not in paint.text([(("\x1b[2J\r", Ink.PLAIN),)])


def said(result: Report, word: str) -> list[str]:
    """The sentences that begin with the word, each as one line."""
    text = paint.text(lines(result))
    return [
        " ".join(s.split())
        for s in re.findall(rf"^ ({word}: .*?\.)$", text, re.MULTILINE | re.DOTALL)
    ]


def test_the_sentences_say_what_the_case_comes_to(hollow: Report) -> None:
    assert said(hollow, "Before") == [
        "Before: 96.2 of 240 GB, 40 %; ASR + TTS use 23 of 160 GB, 137 GB (86 %) wasted."
    ]
    assert said(hollow, "After") == [
        f"After: 96.2 of 160 GB, 60 %; GPU 2 free; {SAVING}.",
        f"After: 96.2 of 120 GB, 80 %; GPU 2 and 1 x 3g.40gb free; {SAVING}.",
    ]


def test_the_lines_below_are_the_words_of_the_audit_log() -> None:
    scenario = load("hollow-gpu")
    told = pod("asr", "9.6", reason="Fits")
    after = Run("l", BEFORE.gpus, {}, (told,))
    page = paint.text(lines(report(scenario, policy_of(scenario), BEFORE, [after])))
    assert " ASR  rewritten  Fits  need fits\n" in page


def test_pods_without_a_decision_are_findings(hollow: Report) -> None:
    assert hollow.findings == [f"{name}: no decision" for name in ("llm", "asr", "tts")] * 2


def test_an_extender_that_failed_is_a_finding() -> None:
    scenario = load("hollow-gpu")
    after = Run("l", BEFORE.gpus, {}, (pod("asr", "9.6", reason="Fits"),), ("filter: status 500",))
    result = report(scenario, policy_of(scenario), BEFORE, [after])
    assert result.findings == ["extender: filter: status 500"]


def test_the_same_as_data(hollow: Report) -> None:
    data = as_json(hollow)
    assert (data["before"]["usedGb"], data["before"]["heldGb"]) == (96.2, 240)
    assert (data["before"]["hollow"], data["before"]["hollowHeldGb"]) == (["asr", "tts"], 160)
    first, second = data["after"]
    assert (first["heldGb"], first["savedAMonth"], first["gpusFree"]) == (
        160,
        1440,
        [["gpu-node", 2]],
    )
    assert (second["heldGb"], second["freeSlices"]) == (120, {"3g.40gb": 1})
    cut_at = [p["firstMemorySlice"] for p in second["pieces"] if p["gpu"] == 1]
    assert cut_at == [0, 2, 4]


class Terminal(TextIOWrapper):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal() -> TextIO:
    return Terminal(BytesIO(), encoding="utf-8")


def test_colour_is_for_terminals_that_want_it(
    terminal: TextIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    assert paint.coloured(terminal)
    assert not paint.coloured(TextIOWrapper(BytesIO()))
    monkeypatch.setenv("TERM", "dumb")
    assert not paint.coloured(terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    assert not paint.coloured(terminal)


def test_blocks_are_for_streams_that_can_carry_them(terminal: TextIO) -> None:
    assert paint.speaks_unicode(terminal)
    assert not paint.speaks_unicode(TextIOWrapper(BytesIO(), encoding="ascii"))
