"""The charts that the documentation shows: SVG, without a background of their own.

Text and bars have tones that stand out from a white page as from a dark one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.figure import Figure

from .report import labels_of_more

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .report import Result

TEXT = "#7d858f"
OURS = "#2f8f6b"
OTHERS = "#8a94a6"

STYLE: dict[Any, Any] = {
    "axes.edgecolor": TEXT,
    "axes.labelcolor": TEXT,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": TEXT,
    "xtick.color": TEXT,
    "ytick.color": TEXT,
    # Text stays text: readable by screen readers, and a smaller file.
    "svg.fonttype": "none",
    # The same figures give the same file.
    "svg.hashsalt": "palitra",
}


def draw(results: Sequence[Result], folder: Path) -> None:
    """A chart for each row, in a file of the row's name."""
    with mpl.rc_context(STYLE):
        for result in results:
            if result.entries:
                path = folder / f"{result.name}.svg"
                _chart(result).savefig(path, transparent=True, metadata={"Date": None})


def _chart(result: Result) -> Figure:
    if result.name == "scale":
        return _lines(result)
    return _bars(result)


def _bars(result: Result) -> Figure:
    """The entries as bars, cheapest on top; a panel for each further figure that is to be seen."""
    ordered = sorted(result.entries.items(), key=lambda item: -item[1].median)
    names = [name for name, _ in ordered]
    panels = [(result.row.unit, [one.median for _, one in ordered])]
    if result.row.more_in_chart:
        panels += [
            (label, [one.more[key] for _, one in ordered])
            for key, label in zip(result.row.more, labels_of_more(result.row), strict=True)
        ]
    figure = Figure(figsize=(7.5, 0.9 + 0.3 * len(names)), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for ax, (label, values) in zip(axes, panels, strict=True):
        colors = [OURS if name.startswith("palitra") else OTHERS for name in names]
        bars = ax.barh(names, values, color=colors, height=0.7)
        ax.bar_label(bars, [f"{value:,.3g}" for value in values], padding=3)
        ax.set_xlabel(label)
        ax.margins(x=0.18)
        ax.tick_params(axis="y", length=0)
    axes[0].set_title(result.row.title, loc="left", x=0)
    return figure


def _lines(result: Result) -> Figure:
    """Cost per call over the number of calls."""
    figure = Figure(figsize=(7.5, 3.2), layout="constrained")
    ax: Axes = figure.subplots()
    by_system: dict[str, list[tuple[int, float]]] = {}
    for entry, one in result.entries.items():
        system, _, size = entry.partition(", ")
        by_system.setdefault(system, []).append((int(size.replace(",", "")), one.median))
    for system, points in by_system.items():
        sizes, costs = zip(*points, strict=True)
        color = OURS if system == "palitra" else OTHERS
        ax.plot(sizes, costs, marker="o", color=color, label=system)
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter("{x:,.0f}")
    ax.set_ylim(bottom=0)
    ax.set_xlabel("calls submitted at once")
    ax.set_ylabel(result.row.unit)
    ax.set_title(result.row.title, loc="left")
    ax.legend(frameon=False)
    return figure
