"""A page of the site: a body with nine sensors in motion, to be turned by hand, and what they read.

From figures/sensors.json (`tools/draw_sensors.py`), by plotly, whose code is part of the page.
"""

import json
from pathlib import Path

import plotly.graph_objects as go
from plotly.colors import sample_colorscale
from plotly.subplots import make_subplots
from sphinx.application import Sphinx

SCENE = Path(__file__).parents[1] / "figures" / "sensors.json"
APART = 40  # m/s² between the zero lines of two sensors
BODY = {"color": "#444444", "width": 6}


def figure(scene: dict) -> go.Figure:
    """Bones and sensors on the left; accelerations and a cursor on the right; a slider below."""
    sites, fps = scene["sites"], scene["fps"]
    joints = [frame for motion in scene["motions"] for frame in motion["joints"]]
    places = [frame for motion in scene["motions"] for frame in motion["places"]]
    readings = [frame for motion in scene["motions"] for frame in motion["acc"]]
    times = [t / fps for t in range(len(joints))]
    levels = [APART * row for row in reversed(range(len(sites)))]
    hues, top = sample_colorscale("Turbo", len(sites)), levels[0] + 2 * APART

    def moving(t: int) -> list[go.Scatter3d | go.Scatter]:
        """What changes from frame to frame; the viewer goes along with the body."""
        middle = [sum(axis) / len(axis) for axis in zip(*joints[t], strict=True)]

        def shown(points: list, **style) -> go.Scatter3d:
            at = [p and (p[0] - middle[0], p[2] - middle[2], p[1]) for p in points]
            x, y, z = zip(*((None,) * 3 if p is None else p for p in at), strict=True)
            return go.Scatter3d(x=x, y=y, z=z, showlegend=False, **style)

        lines = [p for a, b in scene["bones"] for p in (joints[t][a], joints[t][b], None)]
        bones = shown(lines, mode="lines", line=BODY, hoverinfo="skip")
        sensors = shown(
            places[t],
            mode="markers",
            marker={"size": 6, "color": hues},
            text=sites,
            hoverinfo="text",
        )
        at = {"x": [times[t]] * 2, "y": [-APART, top], "mode": "lines", "hoverinfo": "skip"}
        return [bones, sensors, go.Scatter(**at, line={"color": "#999999"}, showlegend=False)]

    fig = make_subplots(1, 2, specs=[[{"type": "scene"}, {"type": "xy"}]], column_widths=[0.4, 0.6])
    for trace, column in zip(moving(0), (1, 1, 2), strict=True):
        fig.add_trace(trace, 1, column)
    for number, (site, level, hue) in enumerate(zip(sites, levels, hues, strict=True)):
        y = [level + frame[number] for frame in readings]
        fig.add_trace(go.Scatter(x=times, y=y, name=site, line={"width": 1.2, "color": hue}), 1, 2)
    start = 0
    for motion in scene["motions"]:
        fig.add_annotation(
            x=start / fps,
            y=top,
            text=motion["activity"],
            showarrow=False,
            xanchor="left",
            row=1,
            col=2,
        )
        start += len(motion["joints"])
    fig.frames = [
        go.Frame(name=str(t), data=moving(t), traces=[0, 1, 2]) for t in range(len(times))
    ]
    now = {"mode": "immediate", "frame": {"duration": 0, "redraw": True}}
    steps = [
        {"method": "animate", "label": f"{t:.2f} s", "args": [[str(n)], now]}
        for n, t in enumerate(times)
    ]
    run = {"frame": {"duration": 1000 / fps, "redraw": True}, "fromcurrent": True}
    buttons = [
        {"label": "Play", "method": "animate", "args": [None, run]},
        {"label": "Pause", "method": "animate", "args": [[None], now]},
    ]
    still = {"range": [-0.7, 0.7], "visible": False}
    fig.update_layout(
        title="Virtual sensors of three sampled motions: magnitude of the acceleration",
        template="simple_white",
        height=640,
        scene={
            "xaxis": still,
            "yaxis": still,
            "zaxis": {"range": [0, 2], "visible": False},
            "aspectratio": {"x": 0.9, "y": 0.9, "z": 1.3},
            "camera": {"eye": {"x": 1.1, "y": 1.1, "z": 0.3}},
        },
        xaxis={"title": "time (s)"},
        yaxis={"title": f"{APART} m/s² from line to line", "tickvals": levels, "ticktext": sites},
        sliders=[{"steps": steps, "x": 0.1, "len": 0.9, "ticklen": 0, "font": {"color": "white"}}],
        updatemenus=[{"type": "buttons", "buttons": buttons, "x": 0.05, "y": -0.05}],
        showlegend=False,
    )
    return fig


def write_player(app: Sphinx, failure: Exception | None) -> None:
    """Write ``player.html`` beside the pages."""
    if failure is None:
        scene = json.loads(SCENE.read_text(encoding="utf-8"))
        figure(scene).write_html(Path(app.outdir) / "player.html", include_plotlyjs=True)


def setup(app: Sphinx) -> None:
    app.connect("build-finished", write_player)
