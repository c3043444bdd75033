"""Tables in Markdown and pictures in SVG, out of the rows of the packing benchmark."""

from collections.abc import Mapping, Sequence
from typing import Any
from xml.sax.saxutils import escape

from bench._packing_earlier import AGAINST, EARLIER, reproduced
from bench._packing_policies import DEFAULT, FILL, OURS, POD_COUNT, STOCK
from bench._packing_runs import MA_CPU_MIG
from bench._pages import table

Row = Mapping[str, Any]

SHOWN = (DEFAULT, *STOCK, FILL, POD_COUNT, OURS)
COLOURS = {
    DEFAULT: "#9aa0a6",
    "best stock": "#4c78a8",
    MA_CPU_MIG: "#e0a030",
    STOCK[2]: "#4c78a8",
    STOCK[3]: "#8a63b0",
    OURS: "#3b8f4a",
    "re-pack bound": "#202124",
}
CHURN = {"U1 .30": 0, **{f"U1 .30 churn {percent}%": percent for percent in (5, 10, 20, 40)}}


# --- Markdown ----------------------------------------------------------------------------------------


def _difference(found: Mapping[str, Any], digits: int, *, verdict: bool = True) -> str:
    text = f"{found['mean']:+.{digits}f} ± {found['half_width']:.{digits}f}"
    return f"{text} {found['verdict']}" if verdict else text


def idle(rows: Sequence[Row], what: str, digits: int) -> str:
    """Idle GPUs or nodes by scenario and policy."""
    head = ["scenario", *SHOWN, "minus best stock", "minus MA cpu+mig", "re-pack bound"]
    body = []
    for row in rows:
        found = row[what]
        body.append(
            [
                row["scenario"],
                *(
                    f"**{found['mean'][p]:.{digits}f}**"
                    if p == OURS
                    else f"{found['mean'][p]:.{digits}f}"
                    for p in SHOWN
                ),
                _difference(found["minus"]["best stock"], digits),
                _difference(found["minus"]["MA cpu+mig"], digits, verdict=False),
                f"{found['re-pack bound']:.{digits}f}",
            ]
        )
    return table(head, body)


def layouts(rows: Sequence[Row]) -> str:
    """What knowing the layouts is worth, where it makes any difference."""
    body = []
    for row in rows:
        minus = row["idle GPUs"]["minus"]
        if any(abs(minus[key]["mean"]) >= 0.05 for key in ("layouts told", "layouts unknown")):
            cells = [_difference(minus[key], 1) for key in ("layouts told", "layouts unknown")]
            body.append([row["scenario"], *cells, _difference(minus["pod count"], 1)])
    head = ["scenario", "minus layouts told", "minus layouts unknown", "minus pod count"]
    return table(head, body)


def accepted(rows: Sequence[Row]) -> str:
    """Shares of pods accepted, where policies differ by a tenth of a percent or more."""
    head = ["scenario", "pods", *SHOWN]
    body = []
    for row in rows:
        for group, shares in row["accepted %"].items():
            values = [shares[p] for p in SHOWN]
            if max(values) - min(values) >= 0.1:
                body.append([row["scenario"], group, *(f"{value:.1f}" for value in values)])
    return table(head, body)


def beside_earlier(rows: Sequence[Row]) -> str:
    """Each row beside what an earlier simulator found."""
    body = []
    for row in rows:
        cells = []
        for other in AGAINST:
            mean, half = EARLIER[row["scenario"]].minus(other)
            ours = row["idle GPUs"]["minus"][other]
            same = reproduced(ours["mean"], ours["half_width"], mean, half)
            cells += [_difference(ours, 1, verdict=False), f"{mean:+.1f} ± {half:.1f}", _yes(same)]
        body.append([row["scenario"], *cells])
    head = [
        "scenario",
        "minus best stock",
        "earlier",
        "meet",
        "minus MA cpu+mig",
        "earlier",
        "meet",
    ]
    return table(head, body)


def _yes(true: object) -> str:
    return "yes" if true else "**no**"


# --- SVG ---------------------------------------------------------------------------------------------

_STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#202124}"
    ".title{font-size:14px;font-weight:600}.small{font-size:11px;fill:#5f6368}"
    ".grid{stroke:#e4e6e8}.axis{stroke:#9aa0a6}"
)


def _svg(width: int, height: int, title: str, body: Sequence[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" role="img" aria-label="{escape(title)}">\n<style>{_STYLE}</style>\n'
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>\n'
        f'<text class="title" x="16" y="24">{escape(title)}</text>\n'
        + "\n".join(body)
        + "\n</svg>\n"
    )


def _text(x: float, y: float, text: str, anchor: str = "start", css: str = "") -> str:
    style = f' class="{css}"' if css else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{style}>{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, css: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{css}"/>'


def bars(rows: Sequence[Row]) -> str:
    """Idle GPUs by scenario, as shares of all GPUs, with the re-pack bound as a tick."""
    names = (DEFAULT, MA_CPU_MIG, "best stock", OURS)
    left, top, wide, thick, gap = 210, 64, 460, 9, 12
    body = []
    for position, name in enumerate(names):
        x = left + position * 118
        body += [
            f'<rect x="{x}" y="38" width="10" height="10" fill="{COLOURS[name]}"/>',
            _text(x + 15, 47, name, css="small"),
        ]
    each = thick * len(names) + gap
    bottom = top + each * len(rows)
    for percent in range(0, 101, 20):
        at = left + wide * percent / 100
        body += [_line(at, top - 4, at, bottom, "grid")]
        body += [_text(at, bottom + 14, f"{percent} %", "middle", "small")]
    for number, row in enumerate(rows):
        found, y = row["idle GPUs"], top + each * number
        means = {
            **found["mean"],
            "best stock": found["mean"][found["minus"]["best stock"]["versus"]],
        }
        body.append(_text(left - 8, y + each / 2, row["scenario"], "end"))
        for position, name in enumerate(names):
            length = wide * means[name] / row["gpus"]
            at = y + thick * position
            body.append(
                f'<rect x="{left}" y="{at:.1f}" width="{length:.1f}" height="{thick - 1}" '
                f'fill="{COLOURS[name]}"><title>{escape(name)}: {means[name]:.1f}</title></rect>'
            )
        x = left + wide * found["re-pack bound"] / row["gpus"]
        body.append(
            f'<line x1="{x:.1f}" y1="{y - 1:.1f}" x2="{x:.1f}" y2="{y + thick * 4:.1f}" '
            f'stroke="{COLOURS["re-pack bound"]}" stroke-width="2"/>'
        )
    foot = "black tick: the most that could be idle if pods were moved freely, for the pods then running"
    body.append(_text(16, bottom + 34, foot, css="small"))
    return _svg(700, bottom + 46, "GPUs without a pod, share of all GPUs, mean over time", body)


def churn(rows: Sequence[Row]) -> str:
    """Idle GPUs against the load of pods without GPUs, U1 at 30 %."""
    points = {CHURN[row["scenario"]]: row for row in rows if row["scenario"] in CHURN}
    names = (DEFAULT, MA_CPU_MIG, STOCK[2], STOCK[3], OURS)
    left, top, wide, high, most = 56, 48, 440, 250, 70

    def at(percent: float, idle_gpus: float) -> tuple[float, float]:
        return left + wide * percent / 40, top + high * (1 - idle_gpus / most)

    body = []
    for gpus in range(0, most + 1, 10):
        _, y = at(0, gpus)
        body += [
            _line(left, y, left + wide, y, "grid"),
            _text(left - 8, y + 4, str(gpus), "end", "small"),
        ]
    for percent in sorted(points):
        x, y = at(percent, 0)
        body.append(_text(x, y + 18, f"{percent} %", "middle", "small"))
    ends = []
    for name in names:
        line = [at(p, points[p]["idle GPUs"]["mean"][name]) for p in sorted(points)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in line)
        width = 3 if name == OURS else 2
        body.append(
            f'<polyline points="{path}" fill="none" stroke="{COLOURS[name]}" stroke-width="{width}"/>'
        )
        body += [
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{COLOURS[name]}"/>' for x, y in line
        ]
        ends.append((line[-1][1], name))
    lowest = 0.0
    for y, name in sorted(ends):
        lowest = max(y, lowest + 15)
        body.append(_text(left + wide + 10, lowest + 4, name))
    body.append(
        _text(
            left,
            top + high + 40,
            "cpu asked for by pods without GPUs, share of all cores",
            css="small",
        )
    )
    title = "GPUs without a pod, of 96, when other pods use cpu on the GPU nodes"
    return _svg(640, top + high + 56, title, body)
