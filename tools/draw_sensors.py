"""The body with its nine sensors in motion, beside what they read: an animated WebP.

Beside it stand the numbers of the site's interactive page (`book/player.py`).

python -m tools.draw_sensors figures/sensors.webp
"""

import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

from t2imu_utils import pictures, style
from t2imu_utils.body.smpl import Body, load_body
from t2imu_utils.imu.sites import sensor_frames, sensor_sites, site_vertices
from t2imu_utils.motion.skeleton import PARENTS
from t2imu_utils.text_to_imu import GeneratedMotion, generate_motion

PROMPTS = {
    "walking": "a person walks forward",
    "jumping": "a person jumps up and down on the spot",
    "running": "a person runs straight ahead",
}
SECONDS, AZIMUTH, DPI = 2.5, 40.0, 100


def main(path: Path) -> None:
    """Sample the motions from the shipped prior and write the animation."""
    style.use()
    body = load_body()
    motions = {name: generate_motion(text, SECONDS) for name, text in PROMPTS.items()}
    first, *others = pictures_of(motions, body)
    options = {"quality": 55, "method": 6, "duration": round(1000 / 20), "loop": 0}
    first.save(path, save_all=True, append_images=others, **options)
    path.with_suffix(".json").write_text(json.dumps(scene_of(motions, body)) + "\n")
    sys.stdout.write(f"{path}: {1 + len(others)} frames, {path.stat().st_size // 1000} kB\n")


def scene_of(motions: dict[str, GeneratedMotion], body: Body) -> dict:
    """Joints and sensors (m), magnitudes of the acceleration (m/s²), frame by frame."""
    sites = sensor_sites(body)
    told = []
    for activity, motion in motions.items():
        pose = motion.global_orient, motion.body_pose, motion.transl
        vertices = body.vertices(site_vertices(sites), motion.betas, *pose)
        places = sensor_frames(vertices, sites)[0].numpy()
        magnitudes = np.linalg.norm(motion.acc, axis=2)
        arrays = {"joints": motion.joints, "places": places, "acc": magnitudes}
        rounded = {name: np.float64(x).round(3).tolist() for name, x in arrays.items()}
        told.append({"activity": activity, **rounded})
    bones = [[joint, parent] for joint, parent in enumerate(PARENTS) if parent >= 0]
    names = [site.name for site in sites]
    return {"fps": 20, "sites": names, "bones": bones, "motions": told}


def pictures_of(motions: dict[str, GeneratedMotion], body: Body) -> Iterator[Image.Image]:
    """Frame by frame: the skin with its sensors, and the readings until then."""
    sites = sensor_sites(body)
    names = [site.name for site in sites]
    hues = plt.get_cmap("turbo")(np.linspace(0.05, 0.95, len(sites)))
    readings = np.concatenate([np.linalg.norm(m.acc, axis=2) for m in motions.values()])
    times = np.arange(len(readings)) / 20
    figure = plt.figure(figsize=(style.PAGE, 4.0), dpi=DPI)
    left, right = figure.subfigures(1, 2, width_ratios=(1, 1.8))
    skin = left.subplots()
    axes = right.subplots(len(sites), 1, sharex=True, sharey=True)
    lines = []
    for ax, name, hue, values in zip(axes, names, hues, readings.T, strict=True):
        ax.plot(times, values, color=style.FAINT)
        lines += ax.plot([], [], color=hue)
        ax.set_ylabel(name.replace("_", "\n"), rotation=0, ha="right", va="center")
        ax.grid(False)
    axes[0].set(xlim=(0, times[-1]), ylim=(0, np.percentile(readings, 99.5)), yticks=(0, 40))
    axes[-1].set_xlabel("time (s)")
    right.supylabel("|acceleration| (m/s²)", fontsize=style.SMALL)
    start = 0
    for name, motion in motions.items():
        axes[0].text(start / 20, 1.15, name, transform=axes[0].get_xaxis_transform())
        pose = motion.global_orient, motion.body_pose, motion.transl
        vertices = body.vertices(np.arange(len(body.model.v_template)), motion.betas, *pose)
        places, frames = sensor_frames(vertices[:, site_vertices(sites)], sites)
        for t, skinned in enumerate(vertices.numpy()):
            aside = skinned.mean(0) * [1, 0, 1]  # the viewer goes along
            skin.clear()
            pictures.mesh(skin, skinned - aside, body.faces, AZIMUTH)
            plane, _ = pictures._view(places[t].numpy() - aside, AZIMUTH)
            towards = pictures._view(frames[t, :, :, 2].numpy(), AZIMUTH)[1]
            alpha = np.where(towards > -0.1, 1.0, 0.25)
            skin.scatter(*plane.T, s=45, c=hues, alpha=alpha, edgecolors="white", zorder=4)
            skin.set(xlim=(-0.85, 0.85), ylim=(-0.25, 2.25))
            for line, values in zip(lines, readings[: start + t + 1].T, strict=True):
                line.set_data(times[: len(values)], values)
            drawn = io.BytesIO()
            figure.savefig(drawn, format="png", dpi=DPI)
            yield Image.open(drawn).convert("RGB")
        start += len(motion.joints)
    plt.close(figure)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
