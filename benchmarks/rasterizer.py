"""Speed of the rasterizer on one core: skinning, normals, z-buffer, texture and shading.

    python benchmarks/rasterizer.py [--seconds 3]

Each frame is a new pose at a new yaw, drawn at 256 x 128. Shaping the body, once per identity, is listed
separately. The first call, which compiles, is not counted. Times are processor times, so that other programs
on the machine matter little.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable
from pathlib import Path

import numba
import numpy as np

from san_tf.synthesis.body import BodyShape, load_body, shaped
from san_tf.synthesis.mesh import Mesh
from san_tf.synthesis.pose import walking
from san_tf.synthesis.rasterizer import Light, View, draw
from san_tf.synthesis.skeleton import bone_transforms, skin

SIZE = (256, 128)
INFO = Path("/proc/cpuinfo")


def rate(job: Callable[[int], object], seconds: float) -> float:
    """Return the calls per second of processor time, without the first call."""
    job(0)
    start, count = time.process_time(), 0
    while time.process_time() - start < seconds:
        count += 1
        job(count)
    return count / (time.process_time() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=3.0, help="seconds to measure each line")
    seconds = parser.parse_args().seconds
    body, shape = load_body(), BodyShape()
    rest = shaped(shape)
    texture = np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)
    poses = [walking(i / 16) for i in range(16)]

    def posed(i: int) -> np.ndarray:
        return skin(rest, body.skin_bones, body.skin_weights, bone_transforms(shape, poses[i % 16]))

    mesh = Mesh(rest, body.faces, texture, body.uv, body.uv_faces, part=body.face_part)

    def frame(i: int, supersample: int = 1, shadows: bool = False) -> None:
        yaw = 0.37 * i
        eye = (5 * np.sin(yaw), 1.3, 5 * np.cos(yaw))
        view = View.looking(eye, (0, 0.88, 0), focal=640.0, size=SIZE)
        draw([mesh.at(posed(i))], view, Light(shadows=shadows), supersample)

    shapes = [BodyShape(sex=s) for s in np.linspace(0, 1, 997)]
    cpu = next(
        (
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.processor(),
    )
    print(
        f"{cpu}, Python {platform.python_version()}, NumPy {np.__version__}, numba {numba.__version__}, "
        "one core"
    )
    print(f"| {SIZE[0]} x {SIZE[1]}, {len(body.faces)} triangles | frames/s |\n|---|---|")
    for name, job in (
        ("pose, normals, draw", frame),
        ("the same, with shadows", lambda i: frame(i, shadows=True)),
        ("the same, 2 x 2 samples per pixel", lambda i: frame(i, 2)),
        ("the same, 2 x 2 samples and shadows", lambda i: frame(i, 2, True)),
        ("pose alone", posed),
        ("a new body shape alone", lambda i: shaped(shapes[i % 997])),
    ):
        print(f"| {name} | {rate(job, seconds):.0f} |")


if __name__ == "__main__":
    main()
