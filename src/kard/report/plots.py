"""Charts as SVG that take their colours and their font from the page around them.

Each chart is drawn for a given width, because text in a scaled picture is too small on a phone.
"""

from __future__ import annotations

import io
import math
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from kard.report.numbers import is_oracle, label, operations, percent, retriever, short_label

# matplotlib knows no CSS, so it draws in colours that nobody uses, and these are replaced in the SVG's text.
INK, MUTED, ACCENT, RULE, PAPER = "#010101", "#020202", "#030303", "#040404", "#050505"
_CSS = {INK: "currentColor", MUTED: "var(--muted)", ACCENT: "var(--accent)", RULE: "var(--rule)", PAPER: "var(--paper)"}
_ROW, TEXT, SMALL = 46, 13, 11.5
_LINE, _LETTER = 15, 0.56  # height of a line of small text in pixels, width of a letter as a share of its size
_NAME, _NAME_LETTERS = 140, 22  # room for the name of a method at the right, where it is broken into lines
_CURVES = 250  # height
_EDGE = 0.3  # of the unit between two values, to the left and right of them
_MARKERS = "osD^vP"
_BARS = ((MUTED, 0.5), (ACCENT, 0.45), (ACCENT, 1.0), (INK, 0.85), (MUTED, 1.0))


def methods_chart(methods: Sequence[dict[str, Any]], best: str, width: int) -> str:
    """Accuracy of each method as a dot on its 95 % interval; oracles are hollow, the best usable method has the accent.

    Args:
        methods: The rows of results.json.
        best: Name of the method to stress.
        width: Width in CSS pixels.
    """
    low, high = axis_range(methods)
    names = [_in_lines(label(method["name"]), int((width - 60) / (_LETTER * TEXT))) for method in methods]
    tops = list(accumulate((_ROW + 17 * name.count("\n") for name in names), initial=0))
    height = tops.pop()
    figure, axes = canvas(width, height, bottom=26)
    axes.set(xlim=(low, high), ylim=(height, 0), yticks=[])
    ticks = range(low, high + 1, 10 if (high - low) / width < 0.1 else 20)
    axes.set_xticks(list(ticks), [f"{tick} %" for tick in ticks])
    axes.get_xticklabels()[0].set_horizontalalignment("left")  # the outer labels stay inside
    if ticks[-1] == high:
        axes.get_xticklabels()[-1].set_horizontalalignment("right")
    for method, name, top in zip(methods, names, tops, strict=True):
        _method_row(axes, method, name, top, stressed=method["name"] == best)
    return svg(figure, f"methods {width}")


def _in_lines(text: str, letters: int) -> str:
    return "\n".join(textwrap.wrap(text, max(letters, 12)))


def _method_row(axes: Axes, method: dict[str, Any], name: str, top: float, stressed: bool) -> None:
    line = top + 30 + 17 * name.count("\n")
    colour = ACCENT if stressed else INK
    style = {"color": colour, "size": TEXT, "weight": "bold" if stressed else "normal", "va": "top"}
    place = axes.get_yaxis_transform()
    axes.text(0, top + 4, name, style, ha="left", transform=place)
    axes.text(1, top + 4, percent(method["accuracy"]), style, ha="right", transform=place)
    axes.vlines(axes.get_xticks(), line - 8, line + 8, color=RULE, linewidth=1, clip_on=False)
    axes.hlines(line, *(100 * end for end in method["ci95"]), color=colour, linewidth=2.5, clip_on=False)
    _dot(axes, 100 * method["accuracy"], line, colour, is_oracle(method["name"]))


def _dot(axes: Axes, x: float, y: float, colour: str, hollow: bool) -> None:
    axes.plot(x, y, "o", ms=9, mfc=PAPER if hollow else colour, mec=colour, mew=2, clip_on=False)


def axis_range(methods: Sequence[dict[str, Any]]) -> tuple[int, int]:
    """The tens of percent that hold all intervals."""
    return _tens([end for method in methods for end in method["ci95"]])


def _tens(shares: Sequence[float]) -> tuple[int, int]:
    low, high = math.floor(10 * min(shares)) * 10, math.ceil(10 * max(shares)) * 10
    return low, max(high, low + 10)


def hits_chart(retrieval: Sequence[dict[str, Any]], width: int) -> str:
    """Hits@k of each retriever as bars, grouped by k; they lie where there is no room for numbers on standing ones. `hits_legend`
    says whose they are.

    Args:
        retrieval: The rows of results.json that are measured against the same passages.
        width: Width in CSS pixels.
    """
    cutoffs = list(retrieval[0]["hits"])
    share = 0.84 / len(retrieval)  # of the unit between two groups
    lie = share * width / len(cutoffs) < 1.2 * 3 * _LETTER * SMALL
    figure, axes = canvas(width, len(cutoffs) * (30 + 17 * len(retrieval)) if lie else 200, bottom=26, top=14)
    groups = (len(cutoffs) - 0.5, -0.5) if lie else (-0.5, len(cutoffs) - 0.5)
    marks = [f"top {cutoff}" for cutoff in cutoffs]
    if lie:
        axes.set(ylim=groups, xlim=(0, 1.1), xticks=[], yticks=[])
        for k, mark in enumerate(marks):
            axes.text(0, k - 0.5, mark, color=MUTED, size=SMALL, va="top")
    else:
        axes.set(xlim=groups, ylim=(0, 1), yticks=[])
        axes.set_xticks(range(len(cutoffs)), marks)
        axes.axhline(0, color=RULE, linewidth=1, clip_on=False)
    for number, row in enumerate(retrieval):
        places = [k - 0.42 + share * (number + 0.5) + (0.08 if lie else 0) for k in range(len(cutoffs))]
        heights = [row["hits"][cutoff] for cutoff in cutoffs]
        colour, alpha = _BARS[number % len(_BARS)]
        draw, thick = (axes.barh, 0.85 * share) if lie else (axes.bar, 0.92 * share)
        bars = draw(places, heights, thick, color=colour, alpha=alpha)
        for bar in bars:
            bar.set_clip_on(False)
        axes.bar_label(bars, [f"{100 * height:.0f}" for height in heights], padding=3, color=INK, fontsize=SMALL)
    return svg(figure, f"hits {width}")


def hits_legend(retrieval: Sequence[dict[str, Any]]) -> list[tuple[str, str, float]]:
    """Name, CSS colour and opacity of each row's bars."""
    styles = (_BARS[number % len(_BARS)] for number in range(len(retrieval)))
    return [
        (retriever(row["name"]), _CSS[colour], alpha) for row, (colour, alpha) in zip(retrieval, styles, strict=True)
    ]


def cost_chart(results: dict[str, Any], best: str, width: int) -> str:
    """Accuracy over the operations of one answer (on a logarithmic axis), a named dot for each method as in `methods_chart`.

    Args:
        results: The content of results.json.
        best: Name of the method to stress.
        width: Width in CSS pixels.
    """
    accuracy = {row["name"]: row["accuracy"] for row in results["methods"]}
    dots = [(row["method"], row["answer_flops"], 100 * accuracy[row["method"]]) for row in results["costs"]]
    names = [_in_lines(short_label(name), _NAME_LETTERS) for name, _, _ in dots]
    gap = _LINE * max(name.count("\n") + 1 for name in names) + 4
    height = max(220, gap * len(dots))
    figure, axes = canvas(width, height, bottom=46)
    low, high = axis_range(results["methods"])
    left, names_at = min(x for _, x, _ in dots) / 1.6, max(x for _, x, _ in dots) * 1.25
    right = left * (names_at / left) ** (width / (width - _NAME))  # the axis is logarithmic
    axes.set(xscale="log", ylim=(low, high), xlim=(left, right))
    room = (width - _NAME) / math.log10(names_at / left)  # pixels between a number and its tenfold
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if room > 120 else (1,)))
    axes.xaxis.set_major_formatter(lambda flops, _: operations(flops))
    axes.minorticks_off()
    axes.set_xlabel("operations an answer", color=MUTED, size=SMALL, loc="left")
    axes.grid(axis="y", color=RULE, linewidth=1, clip_on=False)
    axes.set_axisbelow(True)
    axes.set_yticks(axes.get_yticks(), [f"{tick:.0f} %" for tick in axes.get_yticks()], ha="left", va="bottom")
    axes.tick_params(axis="y", pad=0, direction="in")
    axes.set_ylim(low, high)
    apart = gap * (high - low) / height
    places = _apart([y for _, _, y in dots], apart, high - apart / 2)
    for (name, flops, y), shown, place in zip(dots, names, places, strict=True):
        colour = ACCENT if name == best else INK
        _dot(axes, flops, y, colour, is_oracle(name))
        line = {"arrowstyle": "-", "color": RULE, "shrinkB": 6}
        end = (names_at, place)
        axes.annotate(shown, (flops, y), end, size=SMALL, color=colour, va="center", arrowprops=line)
    return svg(figure, f"costs {width}")


def _apart(places: Sequence[float], gap: float, high: float) -> list[float]:
    """The places moved up as little as keeps them `gap` apart, and down where that would be beyond `high`."""
    moved, last = list(places), -math.inf
    order = sorted(range(len(places)), key=places.__getitem__)
    for index in order:
        last = moved[index] = max(places[index], last + gap)
    for index in reversed(order):
        moved[index] = min(moved[index], high)
        high = moved[index] - gap
    return moved


@dataclass(frozen=True)
class Line:
    """One line of a chart.

    Attributes:
        name: Stands at its end.
        shares: A fraction for each value, None where it was not measured.
        intervals: 95 %, None where there is none.
        stressed: Drawn in the accent.
        hollow: Drawn lightly, for bounds that nobody could reach.
    """

    name: str
    shares: list[float | None]
    intervals: list[Sequence[float] | None]
    stressed: bool = False
    hollow: bool = False


def curves_chart(values: Sequence[str], lines: Sequence[Line], width: int, salt: str) -> str:
    """Shares over the values of a key as SVG, equally spaced in the order given, with their intervals.

    Args:
        values: The marks on the axis.
        lines: At least one, as many shares each as there are values.
        width: In CSS pixels.
        salt: Makes the names inside the picture its own on a page.
    """
    names = [_in_lines(line.name, _NAME_LETTERS) for line in lines]
    apart = _LINE * (max(name.count("\n") for name in names) + 1)
    height = max(_CURVES, apart * len(lines))
    figure, axes = canvas(width, height, bottom=30, top=12)
    span = len(values) - 1 + 2 * _EDGE
    ends = [end for line in lines for interval in line.intervals if interval for end in interval]
    low, high = _tens(ends + [share for line in lines for share in line.shares if share is not None])
    axes.set(xlim=(-_EDGE, -_EDGE + span * width / (width - _NAME)), ylim=(low, high), yticks=[])
    axes.set_xticks(range(len(values)), list(values))
    for tick in range(low, high + 1, 10 if high - low <= 50 else 20):
        axes.hlines(tick, -_EDGE, -_EDGE + span, color=RULE, linewidth=1, clip_on=False)
        axes.text(-_EDGE, tick + (high - low) * 0.012, f"{tick} %", color=MUTED, size=9.5, va="bottom")
    for number, line in enumerate(lines):
        _curve(axes, line, _MARKERS[number % len(_MARKERS)], shift=0.035 * (number - (len(lines) - 1) / 2))
    last = [next((100 * share for share in reversed(line.shares) if share is not None), 0.0) for line in lines]
    places = _apart(last, apart * (high - low) / height, high)
    for line, name, place in zip(lines, names, places, strict=True):
        style = {"size": SMALL, "weight": "bold" if line.stressed else "normal", "va": "center"}
        axes.text(len(values) - 1 + _EDGE * 0.75, place, name, style, color=_colour(line))
    return svg(figure, f"{salt} {width}")


def _curve(axes: Axes, line: Line, marker: str, shift: float) -> None:
    colour, fill = _colour(line), PAPER if line.hollow else _colour(line)
    there = [(place, share) for place, share in enumerate(line.shares) if share is not None]
    moved, heights = [place + shift for place, _ in there], [100 * share for _, share in there]
    width, dashes = 2.5 if line.stressed else 1.2, "--" if line.hollow else "-"
    axes.plot(moved, heights, dashes, color=colour, lw=width, marker=marker, ms=6, mfc=fill, mec=colour, clip_on=False)
    for (place, _), at in zip(there, moved, strict=True):
        if interval := line.intervals[place]:
            axes.vlines(at, 100 * interval[0], 100 * interval[1], color=colour, lw=1, alpha=0.55, clip_on=False)


def _colour(line: Line) -> str:
    return ACCENT if line.stressed else MUTED if line.hollow else INK


def canvas(width: int, height: int, bottom: int, top: int = 4) -> tuple[Figure, Axes]:
    """An empty figure with one axes of `height` pixels, a unit of the SVG being a pixel."""
    total = top + height + bottom
    figure = Figure(figsize=(width / 72, total / 72))
    axes = figure.add_axes((0, bottom / total, 1, height / total))
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelsize=SMALL, labelcolor=MUTED, pad=7)
    return figure, axes


def svg(figure: Figure, salt: str) -> str:
    """The figure as an `<svg>` element for the middle of a page, the same bytes every time."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": salt}):
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    drawn = buffer.getvalue()
    body = drawn[drawn.index(">", drawn.index("<svg")) + 1 :]
    for colour, css in _CSS.items():
        body = body.replace(colour, css)
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", body, flags=re.DOTALL)
    body = re.sub(r' id="[a-zA-Z0-9.]+_\d+"', "", body)  # names like text_1 would be on the page twice
    width, height = (round(72 * inches) for inches in figure.get_size_inches())
    return f'<svg viewBox="0 0 {width} {height}" aria-hidden="true">{body}'
