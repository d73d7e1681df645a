"""Bar chart of a report: the speed of each provider relative to a plain copy of the same bytes."""

from __future__ import annotations

from pathlib import Path

from .measure import Result
from .report import Report, by_case, machine

SHOWN = {
    "eager": "#b0b0b0",
    "torch.compile": "#7a9cc6",
    "fastloss": "#d1495b",
    "fastloss-in-place": "#edae49",
}


def save_plot(report: Report, path: Path) -> None:
    try:
        import matplotlib
    except ImportError as error:
        raise SystemExit("a chart needs matplotlib: pip install matplotlib") from error
    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.patches import Patch

    groups = [group for group in by_case(report.results) if any("copy" in result.speedup for result in group)]
    modes = list(dict.fromkeys(group[0].mode for group in groups))
    if not modes:
        raise SystemExit("a chart needs the provider copy, to which it relates the others")
    rows = max(sum(group[0].mode == mode for group in groups) for mode in modes)
    size = (6.5 * len(modes), 1.4 + 0.75 * rows)
    figure, axes = pyplot.subplots(1, len(modes), figsize=size, squeeze=False, sharex=True, layout="constrained")
    for axis, mode in zip(axes[0], modes, strict=True):
        shown = [group for group in groups if group[0].mode == mode]
        for i, (provider, colour) in enumerate(SHOWN.items()):
            for row, group in enumerate(shown):
                for result in group:
                    if result.provider == provider:
                        bar = axis.barh(row + 0.2 * (i - 1.5), result.speedup["copy"] * 100, height=0.19, color=colour)
                        axis.bar_label(bar, fmt="%.0f%%", padding=2, fontsize=7)
        axis.set_yticks(range(len(shown)), [_label(group[0]) for group in shown], fontsize=8)
        axis.invert_yaxis()
        axis.axvline(100, color="black", linewidth=0.8, linestyle=":")
        axis.set_title(mode.replace("_", " + "))
        axis.set_xlabel("speed, % of a copy of the same bytes")
    handles = [Patch(color=colour) for colour in SHOWN.values()]
    figure.legend(handles, SHOWN, loc="outside upper center", ncols=len(SHOWN), frameon=False)
    figure.supxlabel(machine(report.environment), fontsize=7)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def _label(result: Result) -> str:
    return f"{result.loss}\n{result.shape} {result.dtype}"
