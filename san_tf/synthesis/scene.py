"""Scenes: a person at a camera's place, with the street, things and passers-by."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

import numpy as np

from san_tf.synthesis.backdrops import crop_photograph, paint_collage, paint_cover
from san_tf.synthesis.camera import (
    Camera,
    Window,
    detector_window,
    labelled_window,
    sample_camera,
    sample_yaw,
    spoilt_window,
    wrap_degrees,
)
from san_tf.synthesis.crop_plans import ACTIONS, USABLE, CropSpec, Variety, Wearer, identity_seed
from san_tf.synthesis.light import Light, any_light, sample_light
from san_tf.synthesis.occluders import Thing, draw_thing, parked_things, thing_in_front
from san_tf.synthesis.people import Figure, cast_shadow, draw_figure, dressed_person, place_figure
from san_tf.synthesis.places import Place, is_free, sample_place
from san_tf.synthesis.seeds import generator_at
from san_tf.synthesis.sensor import Sensor, any_sensor, auto_exposure, develop, sample_sensor
from san_tf.synthesis.street_kernels import Eye, cast
from san_tf.synthesis.wardrobe import held_thing


def render_place(
    place: Place, camera: Camera, window: Window, light: Light, size: tuple[int, int]
) -> np.ndarray:
    """Draw the empty street in a window of the camera's frame.

    Args:
        place: the street.
        camera: where the camera hangs.
        window: the part of the frame to draw.
        light: sun and sky.
        size: (height, width) of the result in pixels.

    Returns:
        `(height, width, 3)` float32 RGB in linear light; 1 is a white surface in full light.
    """
    out = np.zeros((*size, 3), np.float32)
    corners = np.array([window.left, window.top, window.width, window.height])
    cast(Eye(corners, camera.focal, camera.rotation(), camera.height), place, light, out)
    return out


# Pictures are drawn at one of these sizes (height, width), finer than the cameras resolve. `sensor.develop`
# then reduces them to the camera's resolution.
WORKING_SIZE, SMALL_WORKING_SIZE = (256, 128), (192, 96)
# Values of `Surface.mesh`; hair, skirts and bags are above `BODY_MESH`.
BODY_MESH, NO_MESH = 0, -1


@dataclass(frozen=True, eq=False)
class Shot:
    """A finished crop before it is encoded.

    Attributes:
        image: `(height, width, 3)` uint8 RGB.
        yaw: degrees in (-180, 180]; 0 faces the camera, 90 shows the person's left side.
        action: one of `crop_plans.ACTIONS`.
        visibility: share of the person's silhouette that is inside the crop and not hidden, 0..1.
        surface: the person's surface at each pixel of the working size.
        exposure: factor on the light.
        sensor: sensor of the camera.
    """

    image: np.ndarray
    yaw: float
    action: str
    visibility: float
    surface: Surface
    exposure: float
    sensor: Sensor


@dataclass(frozen=True, eq=False)
class Surface:
    """The person's surface that each pixel shows.

    Attributes:
        mesh: `(H, W)` int16: `BODY_MESH` (0), above it hair, skirts and bags, or `NO_MESH` (-1) if the pixel
            does not show the person.
        uv: `(H, W, 2)` float32 texture coordinates where `mesh` is 0.
        light: `(H, W, 3)` float32 linear RGB of the person's surface.
    """

    mesh: np.ndarray
    uv: np.ndarray
    light: np.ndarray


@dataclass(frozen=True, eq=False)
class Station:
    """A camera with everything that is constant during one recording.

    Attributes:
        camera, sensor, place, things, light: what hangs, stands and shines there.
        gain: auto-exposure of the empty street.
        lit: factor on the light of people, against that of the street.
        backdrop: whether a painted collage replaces the street.
    """

    camera: Camera
    sensor: Sensor
    place: Place
    things: tuple[Thing, ...]
    light: Light
    gain: float
    lit: float = 1.0
    backdrop: bool = False


def _varied(here: Station, variety: Variety, more: np.random.Generator) -> Station:
    """Give a picture light and a sensor of its own, with the probability that `variety` tells."""
    # Faces against the sky are darker than it, and people under lamps are brighter than the street.
    lit = float(np.exp(more.uniform(*np.log([0.45, 1.35]))))
    if more.random() < variety.own_look:
        return replace(here, light=any_light(more), sensor=any_sensor(more), lit=lit)
    return replace(here, lit=lit) if variety.wide_cameras else here


# Large enough for a data set of several hundred cameras, each of which is met again and again.
@functools.lru_cache(maxsize=512)
def _site(
    seed: int, camid: int, backgrounds: bool, wide: float
) -> tuple[Camera, Sensor, Place, tuple[Thing, ...]]:
    """What is the same in all recordings of a camera."""
    camera = sample_camera(seed, camid, wide)
    place = sample_place(seed, camera)
    things = () if backgrounds else tuple(parked_things(seed, camera, place))
    return camera, sample_sensor(seed, camid, wide), place, things


@functools.lru_cache(maxsize=128)
def station(seed: int, camid: int, sequence: int, backgrounds: bool = False, wide: float = 0.0) -> Station:
    """Return camera `camid` of the data set with this seed during recording `sequence`.

    Args:
        seed: of the data set.
        camid: camera id, from 0.
        sequence: number of the recording, from 0.
        backgrounds: whether photographs replace the street; then nothing is parked.
        wide: probability that the camera hangs and looks as any camera may.

    Returns:
        A `Station`; the same arguments give the same station.
    """
    camera, sensor, place, things = _site(seed, camid, backgrounds, wide)
    light = sample_light(seed, camid, sequence)
    # The exposure meter sees the middle of the camera's frame.
    reach_x, reach_y = (
        camera.half_width * camera.focal,
        0.3 * camera.half_width * camera.focal + 0.1 * camera.focal,
    )
    frame = Window(-reach_x, -reach_y, 2 * reach_x, 2 * reach_y)
    scene = render_place(place, camera, frame, light, (20, 40))
    return Station(camera, sensor, place, things, light, auto_exposure(scene))


def _walk(spec: CropSpec, here: Station, track: np.random.Generator) -> tuple[float, float, float, str]:
    """Return the person's x and z in metres, yaw in degrees, and action in this frame."""
    camera = here.camera
    for _ in range(12):
        distance = track.uniform(*camera.distance)
        x, z = distance * camera.half_width * track.uniform(-1, 1), -distance
        if is_free(here.place, x, z):
            break
    yaw, action = sample_yaw(camera, track), str(track.choice(ACTIONS, p=[0.6, 0.14, 0.14, 0.12]))
    # People walk in the direction they face. `yaw` counts from the line of sight, but is used here as if it
    # counted from the camera's axis; the error is small.
    stride = (0.0 if action == "standing" else track.uniform(0.3, 0.9)) * spec.step
    angle = np.deg2rad(yaw)
    next_x, next_z = x - np.sin(angle) * stride, z + np.cos(angle) * stride
    inside = camera.distance[0] * 0.9 < -next_z < camera.distance[1] * 1.15
    if inside and abs(next_x) < 1.2 * camera.half_width * -next_z and is_free(here.place, next_x, next_z):
        x, z = next_x, next_z
    return float(x), float(z), yaw, action


def _companion(
    spec: CropSpec, here: Station, x: float, z: float, track: np.random.Generator, rng: np.random.Generator
) -> Figure:
    """Place another person beside, behind or, rarely, in front of a person at (x, z)."""
    identity = spec.passers_by + int(track.integers(spec.variety.passers_by))
    ahead = track.random() < 0.22
    nearer = -track.uniform(0.5, 1.2) if ahead else track.uniform(0.3, 4.5)
    side = track.choice([-1, 1]) * (track.uniform(0.3, 0.6) if ahead else track.uniform(0.15, 0.75))
    yaw = wrap_degrees(sample_yaw(here.camera, track) + rng.normal(0, 8))
    action = str(track.choice(ACTIONS, p=[0.7, 0.15, 0.1, 0.05]))
    distance = -z + nearer
    person = dressed_person(Wearer(identity_seed(spec.seed, identity), everyday=spec.variety.everyday))
    return place_figure(person, action, x * distance / -z + side, -distance, yaw, rng)


def draw_shot(spec: CropSpec) -> Shot:
    """Draw the image that a spec describes.

    Args:
        spec: from a plan.

    Returns:
        A `Shot`; the same spec gives the same shot in any process.

    Raises:
        UserError: the spec names a folder of photographs that cannot be used.
    """
    variety = spec.variety
    here = station(spec.seed, spec.camid, spec.sequence, spec.backgrounds is not None, variety.wide_cameras)
    track = generator_at(
        spec.seed, "track", spec.split == "train", spec.identity, spec.camid, spec.sequence, spec.track
    )
    rng = generator_at(spec.seed, "frame", spec.split, spec.index)
    # What varies beyond the street has its own source, so the rest stays the same with and without it.
    more = generator_at(spec.seed, "variety", spec.split, spec.index)
    here = _varied(here, variety, more)
    x, z, yaw, action = _walk(spec, here, track)
    yaw = wrap_degrees(yaw + rng.normal(0.0, 9.0))
    person = dressed_person(spec.wearer)
    if variety.held:
        # The same thing for the whole pass.
        grip = generator_at(spec.seed, "held", spec.split == "train", spec.identity, spec.camid, spec.track)
        if grip.random() < variety.held:
            person = replace(person, extras=(*person.extras, held_thing(person.shape, grip)))
    figure = place_figure(person, action, x, z, yaw, rng)
    points = here.camera.project(figure.points())
    window = detector_window(points, here.camera, rng, spec.badness)
    if spec.badness == USABLE:
        if more.random() < variety.tight_boxes:
            window = labelled_window(points, more)
        if more.random() < variety.box_errors:
            window = spoilt_window(window, more)
    others = []
    if track.random() < here.camera.crowd:
        others = [_companion(spec, here, x, z, track, rng) for _ in range(1 if track.random() < 0.75 else 2)]
    hidden = rng.random() < here.camera.occlusion
    covered = more.random() < variety.covers
    if more.random() < variety.backdrops:
        here = replace(here, backdrop=True, things=())
    radiance, visibility, surface = _compose(spec, here, window, figure, others, hidden, rng)
    if covered:
        seen = np.float32(1.0) - paint_cover(radiance, float(radiance.mean()), more)
        body = surface.mesh != NO_MESH
        visibility *= float(seen[body].mean()) if body.any() else 1.0
        surface = replace(surface, mesh=np.where(seen > 0.5, surface.mesh, np.int16(NO_MESH)))
    if visibility < 0.4 and spec.badness == USABLE:
        # Nobody would label such a crop: draw it again without the people and things in front.
        far = [other for other in others if other.z < figure.z]
        radiance, visibility, surface = _compose(spec, here, window, figure, far, False, rng)
    size = (spec.image_height, spec.image_height // 2)
    image, exposure = develop(radiance, here.sensor, here.gain, window.height, size, rng)
    return Shot(image, yaw, action, visibility, surface, exposure, here.sensor)


def _compose(
    spec: CropSpec,
    here: Station,
    window: Window,
    figure: Figure,
    others: list[Figure],
    hidden: bool,
    rng: np.random.Generator,
) -> tuple[np.ndarray, float, Surface]:
    """Paint from far to near.

    Returns:
        `(H, W, 3)` linear light, the visible share of the person, the person's surface.
    """
    camera, light = here.camera, here.light
    size = WORKING_SIZE if spec.image_height > 128 else SMALL_WORKING_SIZE
    if here.backdrop:
        brightness = np.exp(rng.normal(0.0, 0.35)) / here.gain
        canvas = paint_collage(size, rng) * np.float32(brightness)
    elif spec.backgrounds is None:
        canvas = render_place(here.place, camera, window, light, size)
    else:
        canvas = crop_photograph(spec.backgrounds, size, rng) * np.float32(0.9 / here.gain)
    figures = sorted([figure, *others], key=lambda one: one.z)
    for one in figures:
        cast_shadow(canvas, one, camera, window, light)
    near = [thing for thing in here.things if thing.z < figure.z - 0.3]
    if hidden:
        near.append(thing_in_front(figure.x, figure.z, rng))
    layers: list[tuple[float, Thing | Figure]] = [(thing.z, thing) for thing in near]
    layers += [(one.z, one) for one in figures]
    seen = np.zeros(size, np.float32)
    whole = 0.0
    mesh, uv = np.full(size, NO_MESH, np.int16), np.full((*size, 2), -1, np.float32)
    shine = np.zeros((*size, 3), np.float32)
    lamps = light if here.lit == 1.0 else light._replace(sun=light.sun * here.lit, sky=light.sky * here.lit)
    for _, layer in sorted(layers, key=lambda pair: pair[0]):
        if isinstance(layer, Thing):
            alpha = draw_thing(canvas, layer, camera, window, light)
        else:
            frame = draw_figure(canvas, layer, camera, window, lamps)
            alpha = frame.alpha
            if layer is figure:
                seen, whole = alpha.copy(), float(alpha.sum())
                mesh, uv, shine = frame.mesh, frame.uv, frame.rgb
                continue
        if alpha is not None:
            seen *= 1 - alpha
    surface = Surface(np.where(seen > 0.5, mesh, np.int16(NO_MESH)), uv, shine)
    if whole == 0.0:
        return canvas, 0.0, surface
    return canvas, figure.share_inside(camera, window) * float(seen.sum()) / whole, surface
