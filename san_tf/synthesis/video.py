"""Video of several cameras with exact truth: people walk through their views, leave and come back."""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from san_tf.atomic import atomic_folder
from san_tf.errors import UserError
from san_tf.progress import with_bar
from san_tf.synthesis.camera import Camera, Window
from san_tf.synthesis.crop_plans import Wearer, identity_seed
from san_tf.synthesis.occluders import Thing, draw_thing
from san_tf.synthesis.people import Figure, cast_shadow, draw_figure, dressed_person, posed_figure
from san_tf.synthesis.places import is_free
from san_tf.synthesis.pose import walking
from san_tf.synthesis.scene import Station, render_place, station
from san_tf.synthesis.seeds import generator_at
from san_tf.synthesis.sensor import develop, encode_jpeg

# First identity number, so that nobody wears the clothes of anybody in the data sets of crops.
_FIRST = 600_000
# Frames are drawn so much finer than the camera resolves; the sensor reduces them.
_FINE = 2
# People of whom less is seen have no box in the truth.
_LEAST_SEEN = 0.1
_JPEG_QUALITY = 92


@dataclass(frozen=True)
class VideoConfig:
    """Configuration of a rendered video.

    Attributes:
        name: name of the configuration.
        cameras: number of cameras; their views do not overlap.
        people: number of people who come back, to the same camera or to another one.
        strangers: number of people who are seen once.
        seconds: length of each camera's recording.
        fps: frames in a second.
        size: height and width of a frame in pixels.
        travel: shortest and longest time in seconds between two views of a person.
        seed: seed of all random choices.

    Raises:
        UserError: a number is out of range.
    """

    name: str
    cameras: int
    people: int
    strangers: int
    seconds: float
    fps: int = 5
    size: tuple[int, int] = (270, 480)
    travel: tuple[float, float] = (3.0, 20.0)
    seed: int = 7001

    def __post_init__(self) -> None:
        for name in ("cameras", "fps"):
            if getattr(self, name) < 1:
                raise UserError(f"VideoConfig.{name} must be 1 or more. Received: {getattr(self, name)}.")
        if self.people < 0 or self.strangers < 0 or self.people + self.strangers < 1:
            raise UserError(
                "A video needs one or more people. Received: "
                f"people={self.people}, strangers={self.strangers}."
            )
        if not 0 < self.travel[0] <= self.travel[1]:
            raise UserError(f"VideoConfig.travel must be (shortest, longest). Received: {self.travel}.")
        if self.seconds * self.fps < 2:
            raise UserError(f"A video needs two or more frames. Received: seconds={self.seconds}.")
        if min(self.size) < 64:
            raise UserError(f"VideoConfig.size must be 64 pixels or more. Received: {self.size}.")


VIDEOS: Mapping[str, VideoConfig] = {
    "street": VideoConfig(
        "street", cameras=4, people=16, strangers=6, seconds=90.0, fps=4, travel=(3.0, 12.0)
    ),
    # A test of the whole way in seconds.
    "smoke": VideoConfig("smoke", cameras=2, people=3, strangers=1, seconds=20.0, fps=3, travel=(2.0, 4.0)),
}


class Visit(NamedTuple):
    """A person's walk through the view of a camera.

    Attributes:
        person: number of the person, from 1; the same at all cameras.
        camera: number of the camera, from 0.
        start: seconds since the recordings began.
        stop: likewise.
        path: `(2, 2)` metres: x and z where the person enters and leaves.
    """

    person: int
    camera: int
    start: float
    stop: float
    path: np.ndarray


@functools.lru_cache(maxsize=4)
def visits(config: VideoConfig) -> tuple[Visit, ...]:
    """Plan who walks where and when.

    Args:
        config: numbers of people and cameras, length, seed.

    Returns:
        Visits in the order of people and time; the same configuration gives the same visits.
    """
    plan: list[Visit] = []
    for person in range(1, config.people + config.strangers + 1):
        rng = generator_at(config.seed, "visits", person)
        returns = person <= config.people
        # Those who come back start early enough to do so.
        time = rng.uniform(0.0, config.seconds * (0.45 if returns else 0.85))
        camera, speed = int(rng.integers(config.cameras)), rng.uniform(1.0, 1.6)
        for number in range(2 + int(rng.integers(3)) if returns else 1):
            path = _path(config, camera, generator_at(config.seed, "path", person, number))
            stop = time + float(np.linalg.norm(path[1] - path[0])) / speed
            if number and stop > config.seconds:
                break
            plan.append(Visit(person, camera, time, stop, path))
            time = stop + rng.uniform(*config.travel)
            if config.cameras > 1 and rng.random() < 0.75:
                camera = (camera + int(rng.integers(1, config.cameras))) % config.cameras
    return tuple(plan)


def _path(config: VideoConfig, camid: int, rng: np.random.Generator) -> np.ndarray:
    """Return where a walk begins and ends: mostly from one side of the frame to the other."""
    here = station(config.seed, camid, 0)
    camera = here.camera
    near, far = camera.distance
    reach = 0.5 * config.size[1] / camera.focal
    best, longest = np.array([[-0.5, -near], [0.5, -near]]), 0.0
    for attempt in range(60):
        ends = []
        for side in (-1, 1):
            distance = rng.uniform(near, far)
            # Beyond the frame's edge if nothing is in the way there, else somewhere in the frame.
            out = (1.15 if attempt < 20 else rng.uniform(0.2, 1.15)) * reach * distance
            ends.append((side * out, -distance))
        path = np.array(ends)
        steps = path[0] + np.linspace(0, 1, 16)[:, None] * (path[1] - path[0])
        length = float(np.linalg.norm(path[1] - path[0]))
        if length > longest and all(is_free(here.place, x, z) for x, z in steps):
            best, longest = path, length
            if attempt < 20:
                break
    return best if rng.random() < 0.5 else best[::-1]


def _figure(config: VideoConfig, visit: Visit, time: float) -> Figure:
    """Pose the person of a visit at a time."""
    whole = visit.path[1] - visit.path[0]
    share = (time - visit.start) / (visit.stop - visit.start)
    x, z = visit.path[0] + share * whole
    gait = generator_at(config.seed, "gait", visit.person)
    first, stride, swing, lean = gait.random(), gait.uniform(0.7, 1.1), gait.uniform(0.4, 1.3), 3.0
    # A cycle of two steps is about 1.5 metres long.
    phase = first + share * float(np.linalg.norm(whole)) / (1.5 * stride)
    person = dressed_person(Wearer(identity_seed(config.seed, _FIRST + visit.person)))
    pose = walking(phase, stride, swing, lean)
    return posed_figure(person, pose, float(x), float(z), float(np.arctan2(whole[0], whole[1])))


class _Truth(NamedTuple):
    """A person's box in a frame: left, top, width, height in pixels, and the visible share."""

    person: int
    box: tuple[float, float, float, float]
    visible: float


class _View:
    """A camera's empty street, drawn once, and its people, drawn for each frame."""

    def __init__(self, config: VideoConfig, camid: int) -> None:
        self._config = config
        self._here: Station = station(config.seed, camid, 0)
        self._camid = camid
        height, width = config.size
        self._window = Window(-width / 2, -height / 2, width, height)
        self._fine = (_FINE * height, _FINE * width)
        street = render_place(self._here.place, self._camera, self._window, self._here.light, self._fine)
        # The street with the farthest 0, 1, 2 ... things, because most frames have nobody behind them.
        self._behind = [street]
        # Blur of motion is meant for pictures of people with 128 rows.
        sensor = self._here.sensor
        self._sensor = replace(sensor, shutter=sensor.shutter * 128.0 / height)

    @property
    def _camera(self) -> Camera:
        return self._here.camera

    def frame(self, number: int, people: list[tuple[int, Figure]]) -> tuple[np.ndarray, list[_Truth]]:
        """Draw a frame, `(H, W, 3)` uint8 RGB, and return its truth."""
        people = sorted(people, key=lambda pair: pair[1].z)
        things = self._here.things
        farthest = people[0][1].z if people else 0.0
        count = sum(thing.z < farthest for thing in things)
        canvas = self._with_things(count).copy()
        for _, figure in people:
            self._inside(canvas, figure, shadow=True)
        layers: list[tuple[float, int, Thing | Figure]] = [(thing.z, 0, thing) for thing in things[count:]]
        layers += [(figure.z, person, figure) for person, figure in people]
        seen: dict[int, np.ndarray] = {}
        whole: dict[int, float] = {}
        for _, person, layer in sorted(layers, key=lambda each: each[:2]):
            if isinstance(layer, Thing):
                alpha = draw_thing(canvas, layer, self._camera, self._window, self._here.light)
            else:
                alpha = self._inside(canvas, layer, shadow=False)
            if alpha is not None:
                for other in seen.values():
                    other *= 1 - alpha
                if person:
                    seen[person], whole[person] = alpha.copy(), float(alpha.sum())
        truth = []
        for person, figure in people:
            box, inside = self._box(figure)
            if person in seen and whole[person]:
                visible = inside * float(seen[person].sum()) / whole[person]
                if visible >= _LEAST_SEEN:
                    truth.append(_Truth(person, box, visible))
        rng = generator_at(self._config.seed, "recorded", self._camid, number)
        height, width = self._config.size
        image, _ = develop(canvas, self._sensor, self._here.gain, height, (height, width), rng)
        return image, truth

    def _with_things(self, count: int) -> np.ndarray:
        while len(self._behind) <= count:
            canvas = self._behind[-1].copy()
            draw_thing(
                canvas, self._here.things[len(self._behind) - 1], self._camera, self._window, self._here.light
            )
            self._behind.append(canvas)
        return self._behind[count]

    def _inside(self, canvas: np.ndarray, figure: Figure, shadow: bool) -> np.ndarray | None:
        """Draw a person, or the shadow, into the part of the canvas around the person."""
        pixels = self._window.to_image(self._camera.project(figure.points()), *self._fine)
        low, high = pixels.min(0), pixels.max(0)
        margin = (high - low) * (np.array([2.0, 0.6]) if shadow else 0.02) + 2
        left, top = np.floor(np.maximum(low - margin, 0)).astype(int)
        right, bottom = np.ceil(np.minimum(high + margin, self._fine[::-1])).astype(int)
        if right - left < 4 or bottom - top < 4:
            return None
        window = Window(
            self._window.left + left / _FINE, self._window.top + top / _FINE,
            (right - left) / _FINE, (bottom - top) / _FINE,
        )  # fmt: skip
        part = np.ascontiguousarray(canvas[top:bottom, left:right])
        alpha = None
        if shadow:
            cast_shadow(part, figure, self._camera, window, self._here.light)
        else:
            alpha = np.zeros(self._fine, np.float32)
            alpha[top:bottom, left:right] = draw_figure(
                part, figure, self._camera, window, self._here.light
            ).alpha
        canvas[top:bottom, left:right] = part
        return alpha

    def _box(self, figure: Figure) -> tuple[tuple[float, float, float, float], float]:
        """Return the box around a whole person, also beyond the frame, and its share in the frame."""
        height, width = self._config.size
        pixels = self._window.to_image(self._camera.project(figure.points()), height, width)
        (left, top), (right, bottom) = pixels.min(0), pixels.max(0)
        inside = max(0.0, min(right, width) - max(left, 0)) * max(0.0, min(bottom, height) - max(top, 0))
        box = (float(left), float(top), float(right - left), float(bottom - top))
        return box, float(inside / (box[2] * box[3]))


def _frames(config: VideoConfig) -> Iterator[tuple[int, np.ndarray, list[_Truth]]]:
    """Yield camera, picture and truth of every frame, camera by camera."""
    for camid in range(config.cameras):
        view = _View(config, camid)
        here = [visit for visit in visits(config) if visit.camera == camid]
        for number in range(round(config.seconds * config.fps)):
            time = number / config.fps
            inside = [visit for visit in here if visit.start <= time < visit.stop]
            people = [(visit.person, _figure(config, visit, time)) for visit in inside]
            yield camid, *view.frame(number, people)


def synthetic_video(
    folder: str | os.PathLike[str], config: str | VideoConfig = "smoke", progress: bool = True
) -> Path:
    """Render a video of several cameras, in the layout of the MOT Challenge.

    For each camera there is a folder `camera1`, `camera2` ... with frames `img1/000001.jpg` ..., the truth
    `gt/gt.txt` and `seqinfo.ini`. A line of the truth is frame, id, left, top, width, height, 1, 1, visible
    share. Boxes enclose the whole person, also what is hidden or beyond the frame. People who are hidden to
    more than nine tenths have none. An id is the same person at all cameras, which record at the same time.

    Args:
        folder: new or empty folder; it appears complete or not at all.
        config: "smoke" (2 cameras, 120 frames), "street" (4 cameras, 1,440 frames), or your own.
        progress: whether to show a progress bar.

    Returns:
        The folder. The same configuration gives the same pictures.

    Raises:
        UserError: unknown configuration, or a folder that cannot be written.

    Example:
        >>> synthetic_video("video") / "camera1" / "gt" / "gt.txt"
        PosixPath('video/camera1/gt/gt.txt')
    """
    if isinstance(config, str):
        if config not in VIDEOS:
            raise UserError(f"There is no configuration {config!r}; choose one of {', '.join(VIDEOS)}.")
        config = VIDEOS[config]
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} exists already and is not an empty folder; name a new folder.")
    frames = round(config.seconds * config.fps)
    height, width = config.size
    told = "Rendering" if progress else None
    with atomic_folder(folder) as temporary:
        every = with_bar(_frames(config), told, frames * config.cameras)
        for camid, recording in itertools.groupby(every, key=lambda each: each[0]):
            place = temporary / f"camera{camid + 1}"
            (place / "img1").mkdir(parents=True)
            (place / "gt").mkdir()
            lines = []
            for number, (_, image, truth) in enumerate(recording, 1):
                content = encode_jpeg(image, _JPEG_QUALITY)
                (place / "img1" / f"{number:06d}.jpg").write_bytes(content)
                for person, box, visible in truth:
                    lines.append(f"{number},{person},{','.join(f'{v:.2f}' for v in box)},1,1,{visible:.3f}\n")
            (place / "gt" / "gt.txt").write_text("".join(lines))
            (place / "seqinfo.ini").write_text(
                f"[Sequence]\nname={place.name}\nimDir=img1\nframeRate={config.fps}\nseqLength={frames}\n"
                f"imWidth={width}\nimHeight={height}\nimExt=.jpg\n"
            )
    return folder
