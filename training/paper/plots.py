"""Figures of the tables as PNG files: plain numbers in, a file out, the same bytes for the same numbers.

Every method has one colour in all figures (Okabe and Ito's, told apart by the colour-blind). Legends
stand outside the axes. Figures are twice the pixels that a README shows, for sharp text.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import style
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from numpy.typing import NDArray
from PIL import Image

from training.paper.tables import duration, replace_file

Array = NDArray[np.floating[Any]]
Spread = tuple[float, float]  # mean, standard deviation; NaN where not known

WIDTH, DPI = 8.0, 200  # inches; 1,600 pixels
COLOURS = {"hpca_fh": "#0072B2", "swta_fh": "#D55E00", "vae": "#009E73", "none": "#555555"}
COLOURS |= {"hpca": "#56B4E9", "swta": "#E69F00"}
OTHERS = ("#CC79A7", "#000000", "#B2A100")
MARKERS = "osD^vP*X"
GREY = "#666666"
TICKS = {0.001: "1 ms", 0.01: "10 ms", 0.1: "0.1 s", 1: "1 s", 10: "10 s", 60: "1 min", 600: "10 min"}
TICKS |= {3600: "1 h", 36000: "10 h", 360000: "100 h", 3600000: "1000 h"}
STYLE: dict[str, Any] = {
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#E5E5E5",
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": "black",
    "ytick.labelcolor": "black",
    "legend.frameon": False,
    "legend.columnspacing": 1.5,
    "lines.linewidth": 1.8,
    "lines.markersize": 6,
}


def label_fractions(
    path: Path,
    ours: Mapping[str, Mapping[float, Spread]],
    paper: Mapping[str, Mapping[float, float]],
    *,
    metric: str,
    chance: float | None = None,
) -> None:
    """A metric against the share of labels, method by method; the paper's curves dashed behind ours.

    ours: {method: {share in %: (mean, standard deviation)}}; paper: {method: {share in %: value}}.
    """
    colours = _colours([*ours, *paper])
    shares = sorted({share for curves in (ours, paper) for curve in curves.values() for share in curve})
    handles: list[Artist] = []
    with _axes(path, 4.6) as axes:
        for method, values in paper.items():
            x = sorted(values)
            axes.plot(x, [values[share] for share in x], "--", color=_pale(colours[method]), zorder=2)
        for number, (method, points) in enumerate(ours.items()):
            x = sorted(points)
            means, deviations = np.array([points[share] for share in x], float).reshape(-1, 2).T
            look: dict[str, Any] = {"color": colours[method], "marker": MARKERS[number % len(MARKERS)]}
            axes.errorbar(x, means, np.nan_to_num(deviations), **look, capsize=3, zorder=3)
            handles.append(Line2D([], [], **look, label=method))
        handles += [
            Line2D([], [], color=_pale(colours[method]), linestyle="--", label=f"{method}, paper")
            for method in paper
            if method not in ours
        ]
        if any(method in ours for method in paper):
            handles.append(Line2D([], [], color=_pale(GREY), linestyle="--", label="paper"))
        if chance is not None:
            handles.append(axes.axhline(chance, color=GREY, linestyle=":", zorder=1, label="chance"))
        _log_axis(axes, {share: f"{share:g}%" for share in shares})
        axes.set_xlabel("labels")
        axes.set_ylabel(metric)
        axes.set_ylim(bottom=0)
        _legend(axes, handles)


def precision_recall(path: Path, curves: Mapping[str, tuple[Array, Array]], *, at: str) -> None:
    """Precision against recall: {method: (recall (r,), precision (r,))}, both from 0 to 1; `at` says of what,
    such as "1% of the labels".

    Radii within which no query finds anything, recall 0, are left out.
    """
    colours = _colours(curves)
    handles: list[Artist] = []
    with _axes(path, 4.6) as axes:
        for method, (recall, precision) in curves.items():
            some = np.asarray(recall) > 0
            x, y = np.asarray(recall)[some], np.asarray(precision)[some]
            handles += axes.plot(x, y, color=colours[method], label=method)
        axes.set(xlim=(0, 1), xlabel=f"recall, {at}", ylabel="precision")
        axes.set_ylim(0, min(axes.get_ylim()[1], 1.02))
        _legend(axes, handles)


def durations(path: Path, ours: Mapping[str, float], paper: Mapping[str, float], *, what: str) -> None:
    """Seconds on a logarithmic axis, a bar for each method, the paper's pale below ours.

    {method: seconds}; a method may be missing on either side. what: such as "one epoch of pre-training".
    """
    methods = list(dict.fromkeys([*ours, *paper]))
    colours = _colours(methods)
    known = [seconds for values in (ours, paper) for seconds in values.values()]
    if not all(seconds > 0 for seconds in known):  # NaN is not either
        raise ValueError(f"durations are {', '.join(map(str, known))}; wanted all above 0")
    with _axes(path, 1.3 + 0.62 * len(methods)) as axes:
        for place, method in enumerate(methods):
            apart = 0.19 if method in ours and method in paper else 0.0
            if method in ours:
                _bar(axes, place - apart, ours[method], colours[method])
            if method in paper:
                _bar(axes, place + apart, paper[method], _pale(colours[method]))
        _time_axis(axes, known)
        axes.set_ylim(len(methods) - 0.45, -0.55)  # the first on top
        axes.set_yticks(range(len(methods)), methods)
        axes.tick_params(axis="y", length=0)
        axes.grid(False, axis="y")
        axes.set_xlabel(what)
        if paper:
            sides = {"ours": GREY, "paper": _pale(GREY)}
            _legend(axes, [Patch(color=colour, label=side) for side, colour in sides.items()])


def filters(path: Path, weights: Array, *, scale: int = 8, gap: int = 1, columns: int | None = None) -> None:
    """First-layer weights (Q, 3, k, k) as a grid of pictures, `scale` pixels for each weight."""
    grid = filter_grid(weights, gap=gap, columns=columns).repeat(scale, axis=0).repeat(scale, axis=1)
    file = BytesIO()
    Image.fromarray(grid).save(file, "PNG", optimize=True)
    replace_file(path, file.getvalue())


def filter_grid(weights: Array, *, gap: int = 1, columns: int | None = None) -> NDArray[np.uint8]:
    """Filter i of (Q, 3, k, k) at row i // columns, column i % columns, on white: (rows, columns, 3).

    Each filter's own range is spread over 0 … 255; one that has none is grey. `gap` pixels lie around each.
    """
    weights = np.asarray(weights, np.float32)
    if weights.ndim != 4 or weights.shape[1] != 3 or not weights.size:
        raise ValueError(f"weights have shape {weights.shape}; wanted (Q, 3, k, k)")
    if not np.isfinite(weights).all():
        raise ValueError("weights hold values that are not finite")
    count, _, height, width = weights.shape
    columns = columns or _columns(count)
    low, high = weights.min((1, 2, 3), keepdims=True), weights.max((1, 2, 3), keepdims=True)
    spread = np.where(high > low, (weights - low) / np.where(high > low, high - low, 1), 0.5)
    pictures = np.rint(255 * spread).astype(np.uint8).transpose(0, 2, 3, 1)
    rows = -(-count // columns)
    grid = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, 3), 255, np.uint8)
    for i, picture in enumerate(pictures):
        top, left = gap + i // columns * (height + gap), gap + i % columns * (width + gap)
        grid[top : top + height, left : left + width] = picture
    return grid


def _columns(count: int) -> int:
    """Columns of a grid about 3:2 that leaves as few places empty as can be."""
    widest = math.isqrt(4 * count - 1) + 1
    return min(
        range(math.isqrt(count - 1) + 1, widest + 1),
        key=lambda columns: (-count % columns, abs(columns - math.sqrt(1.5 * count))),
    )


@contextmanager
def _axes(path: Path, height: float) -> Iterator[Axes]:
    """Axes to draw on; the file is written at the end. Neither pyplot nor the user's style takes part."""
    with style.context(["default", STYLE]):
        figure = Figure((WIDTH, height), dpi=DPI, layout="constrained")
        yield figure.add_subplot()
        file = BytesIO()
        figure.savefig(file, format="png", metadata={"Software": None})  # no version, no date
    replace_file(path, file.getvalue())


def _log_axis(axes: Axes, ticks: Mapping[float, str]) -> None:
    """A logarithmic axis with these ticks, and what stands at each."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(list(ticks)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda tick, _: ticks.get(tick, "")))


def _time_axis(axes: Axes, known: Sequence[float]) -> None:
    """A logarithmic axis with the units people use, from a tick below the shortest bar."""
    _log_axis(axes, TICKS)
    if known:
        start = max((tick for tick in TICKS if tick <= min(known) / 2), default=min(known) / 4)
        after = min((tick for tick in TICKS if tick > start), default=start)
        room = (max(known) / start) ** 0.2  # for the text behind the longest bar
        axes.set_xlim(start, max(max(known) * room, 1.05 * after))


def _bar(axes: Axes, y: float, seconds: float, colour: str) -> None:
    axes.barh(y, seconds, 0.36, color=colour)
    axes.annotate(
        duration(seconds),
        (seconds, y),
        (5, 0),
        textcoords="offset points",
        va="center",
        fontsize=9.5,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},  # no line of the grid through it
    )


def _legend(axes: Axes, handles: Sequence[Artist]) -> None:
    """Above the axes, where it covers nothing, in full rows of at most six."""
    figure = axes.get_figure(root=True)
    if figure and handles:
        rows = math.ceil(len(handles) / 6)
        figure.legend(handles=handles, loc="outside upper center", ncols=math.ceil(len(handles) / rows))


def _colours(methods: Iterable[str]) -> dict[str, str]:
    """Each method's colour; methods without one of their own take the others in turn."""
    others = cycle(OTHERS)
    names = dict.fromkeys(methods)
    return {name: COLOURS.get(name.lower().replace("-", "_")) or next(others) for name in names}


def _pale(colour: str) -> str:
    """Half way to white."""
    red, green, blue = to_rgb(colour)
    return to_hex(((1 + red) / 2, (1 + green) / 2, (1 + blue) / 2))
