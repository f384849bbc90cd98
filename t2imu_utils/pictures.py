"""Pictures of bodies, motions and sensors, in the style of `plots.py`."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from t2imu_utils.motion.skeleton import CHAINS
from t2imu_utils.style import AXES, INK, PAGE, QUIET, SMALL, legend_above

# Right leg, left leg, spine and head, right arm, left arm: the order of CHAINS.
LIMBS = ("#d55e00", "#0072b2", INK, "#d55e00", "#0072b2")
SKIN = "#c9ced5"
STEP, BELOW = 1.0, 0.5  # m between the figures of a strip, and for what is written below
LIGHT = np.array([0.35, 0.55, 0.75]) / np.linalg.norm([0.35, 0.55, 0.75])


def _view(points: Float[np.ndarray, "... 3"], azimuth: float, elevation: float = 10.0):
    """Orthographic picture plane (right, up) and depth towards the viewer; angles in degrees.

    At azimuth 0 a body that faces +Z looks at the viewer.
    """
    a, e = np.radians([azimuth, elevation])
    right = np.array([np.cos(a), 0, -np.sin(a)])
    ahead = np.array([np.sin(a) * np.cos(e), np.sin(e), np.cos(a) * np.cos(e)])
    up = np.cross(ahead, right)
    return np.stack([points @ right, points @ up], -1), points @ ahead


def film_strip(
    motions: Mapping[str, Float[np.ndarray, "T 22 3"]],
    frames: int = 12,
    fps: float = 20.0,
    azimuth: float = 55.0,
) -> Figure:
    """Motions as rows of skeletons, `frames` moments of each, evenly spaced from first to last.

    Figures are set side by side and not where the motion has carried them; heights are true. Left
    limbs are blue, right ones red; the line is the floor (y = 0); times are in seconds.

    motions: by title; metres, Y up, starting with the face to +Z.
    """
    ratios = [_height(joints) for joints in motions.values()]
    size = (PAGE, _inches(sum(ratios), frames))
    figure, axes = plt.subplots(len(motions), 1, figsize=size, height_ratios=ratios, squeeze=False)
    for ax, (name, joints) in zip(axes.flat, motions.items(), strict=True):
        _strip(ax, name, np.asarray(joints, dtype=float), frames, fps, azimuth)
    return figure


def _inches(height: float, frames: int) -> float:
    """What so many metres of a strip take on a page."""
    return PAGE * height / (STEP * (frames - 1) + 1.5) + 0.15


def _height(joints: Float[np.ndarray, "T 22 3"]) -> float:
    """Metres from the times below a motion's row to its top."""
    return max(1.0, min(3.2, float(np.max(joints[..., 1])) + 0.1)) + BELOW


def _strip(
    ax: Axes, name: str, joints: np.ndarray, frames: int, fps: float, azimuth: float
) -> None:
    moments = np.unique(np.linspace(0, len(joints) - 1, frames).round().astype(int))
    for place, moment in enumerate(moments):
        body = joints[moment] - joints[moment, 0] * [1, 0, 1]
        plane, depth = _view(body, azimuth, 0.0)
        plane[:, 0] += STEP * place
        order = np.argsort([depth[list(chain)].mean() for chain in CHAINS])
        segments = [plane[list(CHAINS[i])] for i in order]
        style = {"linewidths": 1.5, "capstyle": "round", "joinstyle": "round"}
        ax.add_collection(LineCollection(segments, colors=[LIMBS[i] for i in order], **style))
        ax.plot(*plane[15], "o", color=INK, markersize=3.5)
        style = {"ha": "center", "va": "top", "fontsize": SMALL, "color": QUIET}
        ax.text(STEP * place, -0.08, f"{moment / fps:.1f} s", **style)
    ax.axhline(0, color=QUIET, linewidth=0.6, zorder=0)
    ax.set_title(name, pad=2)
    bottom = 0.1 - BELOW
    ax.set(xlim=(-0.75, STEP * (frames - 1) + 0.75), ylim=(bottom, _height(joints) - BELOW))
    ax.set_aspect("equal")
    ax.axis("off")


def mesh(
    ax: Axes,
    vertices: Float[np.ndarray, "V 3"],
    faces: Int[np.ndarray, "F 3"],
    azimuth: float = 20.0,
) -> None:
    """A shaded body on `ax`: faces that look at the viewer, farthest first."""
    plane, depth = _view(vertices, azimuth)
    corners = vertices[faces]
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normal /= np.linalg.norm(normal, axis=1, keepdims=True).clip(1e-12)
    facing, towards = _view(normal, azimuth)
    seen = np.flatnonzero(towards > 0)
    seen = seen[np.argsort(depth[faces[seen]].mean(1))]
    shade = np.concatenate([facing[seen], towards[seen, None]], 1) @ LIGHT
    colours = np.array(to_rgb(SKIN)) * (0.62 + 0.45 * shade.clip(0, 1))[:, None]
    polygons = PolyCollection(plane[faces[seen]], facecolors=colours.clip(0, 1), rasterized=True)
    # Edges in the faces' own colour hide the seams between them.
    polygons.set_edgecolor("face")
    polygons.set_linewidth(0.2)
    ax.add_collection(polygons)
    ax.autoscale_view()
    ax.set_aspect("equal")
    ax.axis("off")


def bodies(
    vertices: Mapping[str, Float[np.ndarray, "V 3"]],
    faces: Int[np.ndarray, "F 3"],
    azimuth: float = 25.0,
    per_row: int = 4,
) -> Figure:
    """Bodies side by side at one scale, each row on one floor, each body over its name."""
    names = list(vertices)
    rows = [names[i : i + per_row] for i in range(0, len(names), per_row)]
    tallest = max(np.ptp(np.asarray(v)[:, 1]) for v in vertices.values())
    widest = max(np.ptp(_view(np.asarray(v), azimuth)[0][:, 0]) for v in vertices.values())
    step, top, bottom = widest + 0.1, tallest + 0.08, -0.45
    height = PAGE / (step * per_row) * (top - bottom) * len(rows) + 0.3
    figure, axes = plt.subplots(len(rows), 1, figsize=(PAGE, height), squeeze=False)
    right = np.array([np.cos(np.radians(azimuth)), 0, -np.sin(np.radians(azimuth))])
    for ax, row in zip(axes.flat, rows, strict=True):
        for place, name in enumerate(row):
            points = np.asarray(vertices[name], dtype=float)
            points = points - points.mean(0) * [1, 0, 1]
            across = _view(points, azimuth)[0][:, 0]
            aside = step * (place + 0.5) - (across.min() + across.max()) / 2
            floor = np.array([0, -points[:, 1].min(), 0])
            mesh(ax, points + floor + aside * right, faces, azimuth)
            at = step * (place + 0.5), -0.1
            ax.text(*at, name.replace(" ", "\n"), ha="center", va="top", fontsize=SMALL)
        ax.set(xlim=(0, step * per_row), ylim=(bottom, top))
    return figure


def sensor_sites(
    vertices: Float[np.ndarray, "V 3"],
    faces: Int[np.ndarray, "F 3"],
    sites: Mapping[str, Float[np.ndarray, "3"]],
    normals: Mapping[str, Float[np.ndarray, "3"]],
) -> Figure:
    """Sensor sites on a body, from the front and from behind; a site shows where it is in sight.

    sites: positions by name, in the frame of the vertices. normals: their outward directions.
    """
    figure, axes = plt.subplots(1, 2, figsize=(PAGE, 3.0))
    for ax, azimuth, title in zip(axes, (0.0, 180.0), ("front", "back"), strict=True):
        mesh(ax, np.asarray(vertices, dtype=float), faces, azimuth)
        seen = {
            name: _view(np.asarray(point, dtype=float), azimuth)[0]
            for name, point in sites.items()
            if _view(np.asarray(normals[name]), azimuth)[1] > -0.05
        }
        left, right = ax.get_xlim()
        for side, edge in ((-1, left), (1, right)):
            own = [n for n, at in seen.items() if (at[0] >= (left + right) / 2) == (side > 0)]
            _name_points(ax, {name: seen[name] for name in own}, edge + 0.05 * side, side)
        ax.set_title(title, loc="center", fontweight="normal", color=QUIET)
        ax.set_xlim(left - 0.45, right + 0.45)
    return figure


def _name_points(ax: Axes, points: Mapping[str, np.ndarray], edge: float, side: int) -> None:
    """Dots with their names in a column at `edge`, from the top down, none over another."""
    height = np.inf
    for name, (x, y) in sorted(points.items(), key=lambda item: -item[1][1]):
        height = min(y, height - 0.13)
        ax.plot([x, edge], [y, height], color=QUIET, linewidth=0.7, zorder=3)
        ax.plot(x, y, "o", color="#d55e00", markersize=5, markeredgecolor="white", zorder=4)
        ax.text(edge, height, name.replace("_", " "), ha="left" if side > 0 else "right",
                va="center", fontsize=SMALL)  # fmt: skip


def imu_traces(
    signals: Mapping[str, Float[np.ndarray, "F 3"]], rate: float, unit: str = "m/s²"
) -> Figure:
    """The three axes of one sensor side by side, one line for each body."""
    figure, axes = plt.subplots(1, 3, figsize=(PAGE, 2.0), sharey=True)
    hues = plt.get_cmap("viridis")(np.linspace(0.05, 0.9, len(signals)))
    for (name, values), hue in zip(signals.items(), hues, strict=True):
        for ax, axis in zip(axes, np.asarray(values).T, strict=True):
            ax.plot(np.arange(len(axis)) / rate, axis, linewidth=0.9, color=hue, label=name)
    for ax, axis in zip(axes, "xyz", strict=True):
        ax.set(title=axis, xlabel="time (s)")
        ax.margins(x=0)
    axes[0].set_ylabel(unit)
    legend_above(figure, axes[0], 4)
    return figure


def motion_with_signals(
    title: str,
    joints: Float[np.ndarray, "T 22 3"],
    signals: Mapping[str, Float[np.ndarray, "T S 3"]],
    sites: Sequence[str],
    fps: float = 20.0,
    frames: int = 12,
) -> Figure:
    """A film strip over the signals of all sensors: a row for each site, a column for each kind.

    signals: by title, such as ``"acceleration (m/s²)"``.
    """
    heights = [_inches(_height(joints), frames), 0.5 * len(sites) + 0.6]
    figure = plt.figure(figsize=(PAGE, sum(heights)))
    above, below = figure.subfigures(2, 1, height_ratios=heights)
    _strip(above.subplots(), title, np.asarray(joints, dtype=float), frames, fps, 55.0)
    axes = below.subplots(len(sites), len(signals), sharex=True, sharey="col", squeeze=False)
    times = np.arange(len(joints)) / fps
    for column, (name, values) in zip(axes.T, signals.items(), strict=True):
        for ax, readings in zip(column, np.moveaxis(values, 1, 0), strict=True):
            for axis, part in zip(AXES, readings.T, strict=True):
                ax.plot(times, part, color=AXES[axis], linewidth=0.8, label=axis)
            ax.margins(x=0)
        column[0].set_title(name)
        column[-1].set_xlabel("time (s)")
    for ax, site in zip(axes[:, 0], sites, strict=True):
        ax.set_ylabel(site.replace("_", "\n"), rotation=0, ha="right", va="center")
    legend_above(below, axes[0, 0])
    return figure
