"""Pictures as SVG, drawn by matplotlib (extra ``[report]``); nothing global is touched."""

import io
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np

from experiments.reporting.groups import Grouped

AT_MOST_LINES = 8  # systems in one picture
COLOURS = ("#1965b0", "#dc050c", "#4eb265", "#f1932d", "#882e72", "#777777", "#7bafde", "#994f00")
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "axes.prop_cycle": f"cycler('color', {list(COLOURS)})",
}


def available() -> bool:
    """Whether matplotlib is here."""
    return find_spec("matplotlib") is not None


def draw(paint: Callable[[Any], None], *, width: float = 7.2, height: float = 3.0) -> str:
    """The SVG of what ``paint(figure)`` draws, in inches; the same drawing gives the same text."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({**STYLE, "svg.hashsalt": "diffrec_jax"}):
        figure = Figure(figsize=(width, height), layout="constrained")
        paint(figure)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()


def curves(lines: Sequence[Mapping[str, Any]], best_epoch: int, selected: str = "recall@20") -> str:
    """Loss, and validation recall, NDCG and what selects, by epoch; ``lines`` as in ``metrics.jsonl``."""

    def paint(figure: Any) -> None:
        left, right = figure.subplots(1, 2)
        losses = [line["loss"] for line in lines]
        left.plot([line["epoch"] for line in lines], losses)
        if min(losses) > 0 and max(losses) > 30 * min(losses):
            left.set_yscale("log")
        left.set(xlabel="epoch", ylabel="training loss")
        validated = [line for line in lines if line["valid"]]
        measured = validated[0]["valid"]["official"] if validated else {}
        k = selected.partition("@")[2]
        for metric in (name for name in dict.fromkeys((f"recall@{k}", f"ndcg@{k}", selected)) if name in measured):
            values = [line["valid"]["official"][metric] for line in validated]
            right.plot([line["epoch"] for line in validated], values, marker=".", label=metric)
        if best_epoch > 0:
            right.axvline(best_epoch, color="0.5", linestyle=":", label=f"best epoch, {best_epoch}")
        right.set(xlabel="epoch", ylabel="validation, official protocol")
        right.set_ylim(bottom=0)
        right.legend()

    return draw(paint)


def importance(epochs: Sequence[int], probabilities: np.ndarray) -> str:
    """How likely training drew each diffusion step; ``probabilities [validations, T]``."""
    steps = probabilities.shape[1]

    def paint(figure: Any) -> None:
        left, right = figure.subplots(1, 2)
        edges = np.concatenate([[0], epochs])
        levels = np.arange(steps + 1) + 0.5
        ratio = np.maximum(probabilities.T * steps, 1e-3)
        filled = left.pcolormesh(edges, levels, ratio, cmap="viridis", norm="log", edgecolors="face", linewidth=0.1)
        figure.colorbar(filled, ax=left, label="probability × T")
        left.set(xlabel="epoch", ylabel="diffusion step t")
        left.grid(False)
        for n in sorted({0, len(epochs) // 2, len(epochs) - 1}):
            right.plot(np.arange(1, steps + 1), probabilities[n] * steps, marker=".", label=f"epoch {epochs[n]}")
        right.axhline(1.0, color="0.5", linestyle=":", label="uniform")
        right.set(xlabel="diffusion step t", ylabel="probability × T")
        right.set_yscale("log")
        right.legend()

    return draw(paint)


def grouped(left: tuple[Grouped, str, str], right: tuple[Grouped, str, str]) -> str:
    """Two panels of ``(numbers, x label, y label)``, a line for each system."""

    def paint(figure: Any) -> None:
        axes = figure.subplots(1, 2)
        for axis, (found, x, y) in zip(axes, (left, right)):
            for name, values in list(found.values.items())[:AT_MOST_LINES]:
                axis.plot(range(len(values)), values, marker="o", markersize=4, label=name)
            axis.set_xticks(range(len(found.labels)), found.labels)
            axis.set(xlabel=x, ylabel=y)
            axis.set_ylim(bottom=0)
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=4)

    return draw(paint, height=3.2)


def quality(cells: Mapping[str, Sequence[tuple[float, float, float]]], metrics: Sequence[str]) -> str:
    """Mean and interval of each system: ``cells[system]`` holds ``(mean, low, high)`` for each metric."""
    names = list(cells)

    def paint(figure: Any) -> None:
        axes = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
        for m, (axis, metric) in enumerate(zip(axes, metrics)):
            means = np.array([cells[name][m] for name in names])
            for n, (mean, low, high) in enumerate(means):
                axis.errorbar(mean, n, xerr=[[max(mean - low, 0)], [max(high - mean, 0)]], fmt="o", color=COLOURS[0])
            axis.set_yticks(range(len(names)), names)
            axis.set(xlabel=metric)
            axis.margins(y=0.1)
        axes[0].invert_yaxis()

    return draw(paint, height=0.9 + 0.3 * len(names))


def effect(
    name: str, lines: Mapping[str, Sequence[tuple[float, Sequence[float], Sequence[float]]]], metrics: Sequence[str]
) -> str:
    """Quality against a setting: ``lines[label]`` holds ``(value, mean of each metric, deviation of each)``."""

    def paint(figure: Any) -> None:
        axes = figure.subplots(1, len(metrics), squeeze=False)[0]
        for m, (axis, metric) in enumerate(zip(axes, metrics)):
            for label, points in list(lines.items())[:AT_MOST_LINES]:
                x = np.array([point[0] for point in points])
                y = np.array([point[1][m] for point in points])
                spread = np.array([point[2][m] for point in points])
                axis.errorbar(x, y, yerr=spread if spread.any() else None, marker="o", markersize=4, label=label)
            values = np.array([point[0] for points in lines.values() for point in points])
            positive = values[values > 0]
            if len(positive) and positive.max() / positive.min() >= 20:
                axis.set_xscale("symlog", linthresh=positive.min())
            axis.set(xlabel=name, ylabel=metric)
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)

    return draw(paint, height=3.2)


def cost(points: Mapping[str, tuple[float, float]], metric: str) -> str:
    """Quality against seconds: ``points[system] = (seconds, mean)``."""

    def paint(figure: Any) -> None:
        axis = figure.subplots()
        for name, (seconds, mean) in points.items():
            axis.plot(seconds, mean, "o", color=COLOURS[0])
            axis.annotate(name, (seconds, mean), xytext=(5, 4), textcoords="offset points", fontsize=8)
        axis.set_xscale("log")
        axis.margins(x=0.25, y=0.15)
        axis.set(xlabel="seconds of the whole run", ylabel=metric)

    return draw(paint, height=3.4)
