"""One style, one colour and one name for each model, one order of activities."""

from collections.abc import Sequence
from math import log10

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_hex
from matplotlib.figure import FigureBase

from t2imu_utils.arms import BASE, arm

PAGE, COLUMN, DPI = 7.16, 3.5, 200  # inches: a figure over two columns and over one
TEXT, SMALL = 8, 7  # points
INK, QUIET, FAINT = "#1f2328", "#6b7480", "#e3e6ea"
# Distinct with any colour vision (after Okabe & Ito); what is not a model is grey or black.
COLOURS = {
    "real": "#1f2328",
    "mdm": "#8d97a5",
    "momask": "#cc79a7",
    "remodiffuse": "#009e73",
    "t2mgpt": "#b8860b",
    "gaussian": "#c9ced5",
    "constant": "#dfe3e8",
    "smoothed": "#a6761d",
    "official": "#7b61a8",
    "recorded": "#d55e00",
}
CONTROL = "#e69f00"
REFINED = LinearSegmentedColormap.from_list("refined", ["#9ecbe8", "#0072b2", "#08264d"])
OTHER_MODELS = ("#d55e00", "#7b61a8", "#56b4e9", "#a6761d")
AXES = {"x": "#d55e00", "y": "#009e73", "z": "#0072b2"}  # of a sensor
LABELS = {
    "real": "real",
    "mdm": "MDM",
    "momask": "MoMask",
    "remodiffuse": "ReMoDiffuse",
    "t2mgpt": "T2M-GPT",
    "gaussian": "MDM, smoothed (σ = 1 frame)",
    "constant": "constant pose",
    "smoothed": "MDM, smoothed",
    "official": "MDM, official read-out",
    "recorded": "recorded motion",
}
# Activities and categories from the most to the least dynamic, each with its colour.
CLASSES = {
    "dancing": "#a6761d",
    "jumping": "#d55e00",
    "running": "#e69f00",
    "climbing up": "#cc79a7",
    "climbing down": "#8f3d6c",
    "stair climbing": "#cc79a7",
    "walking": "#009e73",
    "standing": "#56b4e9",
    "sitting": "#0072b2",
    "lying": "#4b3f8f",
    "other": "#8d97a5",
}


def use() -> None:
    """Set matplotlib's defaults; call it once at the top of a notebook."""
    plt.rc("figure", dpi=DPI)
    plt.rc("figure.constrained_layout", use=True)
    plt.rc("font", family="DejaVu Sans", size=TEXT)
    plt.rc("text", color=INK)
    plt.rc("axes", labelcolor=INK, edgecolor=QUIET, linewidth=0.6, axisbelow=True, grid=True)
    plt.rc("axes", titlesize=TEXT, titleweight="bold", titlelocation="left")
    plt.rc("axes.grid", axis="y")
    plt.rc("axes.spines", top=False, right=False)
    plt.rc("grid", color=FAINT, linewidth=0.6)
    for axis in ("xtick", "ytick"):
        plt.rc(axis, labelsize=SMALL, color=QUIET, labelcolor=INK)
        plt.rc((f"{axis}.major", f"{axis}.minor"), size=0)
    plt.rc("legend", fontsize=SMALL, frameon=False, handlelength=1.4, columnspacing=1.2)
    plt.rc("lines", linewidth=1.2)


def colour(model: str) -> str:
    """The colour of a model everywhere.

    MDM is grey, its control orange, its fine-tuned models blue, darker for a larger lambda. Of
    another generator the control is a lighter and the fine-tuned model a darker shade of its own
    colour. One of another name gets one of a few spare colours, the same in every figure.
    """
    one = arm(model)
    spare = OTHER_MODELS[sum(one.generator.encode()) % len(OTHER_MODELS)]
    own = COLOURS.get(one.generator, spare)
    if one.lambda_acc is None:
        return own
    if one.generator == BASE:
        return to_hex(REFINED(_darkness(one.lambda_acc))) if one.refined else CONTROL
    shades = LinearSegmentedColormap.from_list("shades", ["white", own, "black"])
    return to_hex(shades(0.55 + 0.4 * _darkness(one.lambda_acc) if one.refined else 0.28))


def _darkness(weight: float) -> float:
    """From 0 for a weight of 0.01 to 1 for one of 10."""
    return min(max((log10(weight) + 2) / 3, 0.0), 1.0)


def label(model: str) -> str:
    """The name of a model for a legend: ``mdm-acc0.1`` becomes "MDM, λ = 0.1"."""
    one = arm(model)
    parts = [LABELS.get(one.generator, one.generator)]
    if one.lambda_acc is not None:
        parts.append(f"λ = {one.lambda_acc:g}" if one.refined else "control")
    parts += [*one.others, *[f"seed {one.seed}"] * bool(one.seed)]
    return ", ".join(parts)


def legend_above(figure: FigureBase, source: Axes | Sequence, most: int = 5) -> None:
    """One legend over all panels, of what an axes shows or of handles: at most so many columns,
    equally long."""
    handles = source.get_legend_handles_labels()[0] if isinstance(source, Axes) else source
    rows = -(-len(handles) // most)
    columns = -(-len(handles) // max(rows, 1))
    figure.legend(handles=handles, loc="outside upper right", ncols=columns)


def ordered(names: Sequence[str]) -> list[str]:
    """Activities or categories from the most to the least dynamic; unknown ones last."""
    place = {name: index for index, name in enumerate(CLASSES)}
    return sorted(dict.fromkeys(names), key=lambda name: (place.get(name, len(place)), name))
