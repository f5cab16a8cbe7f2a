"""Streets, furniture, people on the street, and how they come together."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest

from san_tf.errors import UserError
from san_tf.synthesis.backdrops import crop_photograph
from san_tf.synthesis.body import PARTS, BodyShape, joints, load_body
from san_tf.synthesis.camera import Window
from san_tf.synthesis.crop_plans import CropSpec, Variety, Wearer
from san_tf.synthesis.furniture import KINDS, sprite
from san_tf.synthesis.generator import SYNTHETIC_REID, pit_index, synthetic_reid_index
from san_tf.synthesis.occluders import Thing, draw_thing, soften_ground
from san_tf.synthesis.people import draw_figure, dressed_person, place_figure, window_view
from san_tf.synthesis.places import is_free
from san_tf.synthesis.scene import NO_MESH, draw_shot, render_place, station
from san_tf.synthesis.wardrobe import held_thing


def _window(figure, camera, margin: float = 1.1) -> Window:  # type: ignore[no-untyped-def]
    pixels = camera.project(figure.points())
    low, high = pixels.min(0), pixels.max(0)
    height = (high[1] - low[1]) * margin
    middle = (low + high) / 2
    return Window(middle[0] - height / 4, middle[1] - height / 2, height / 2, height)


@pytest.mark.parametrize(("yaw", "side"), [(90.0, "l"), (-90.0, "r")])
def test_yaw_ninety_turns_the_left_arm_to_the_camera(yaw: float, side: str) -> None:
    camera = station(0, 0, 0).camera
    x, z = 1.5, -9.0
    figure = place_figure(dressed_person(Wearer(3)), "standing", x, z, yaw, np.random.default_rng(0))
    body = load_body()
    eye = np.array([0.0, camera.height, 0.0])
    distance = {}
    for hand in "lr":
        faces = body.faces[body.face_part == PARTS.index(f"upper_arm_{hand}")]
        distance[hand] = np.linalg.norm(figure.meshes[0].vertices[faces.ravel()] - eye, axis=1).mean()
    assert min(distance, key=distance.__getitem__) == side


def test_yaw_zero_faces_the_camera_wherever_the_person_stands() -> None:
    body = load_body()
    eye = station(0, 0, 0).camera.height
    for x in (-3.0, 0.0, 3.0):
        figure = place_figure(dressed_person(Wearer(3)), "standing", x, -8.0, 0.0, np.random.default_rng(0))
        vertices = figure.meshes[0].vertices
        face = vertices[body.faces[body.face_part == PARTS.index("face")].ravel()].mean(0)
        scalp = vertices[body.faces[body.face_part == PARTS.index("scalp")].ravel()].mean(0)
        front, to_camera = (face - scalp)[[0, 2]], (np.array([0.0, eye, 0.0]) - face)[[0, 2]]
        cosine = front @ to_camera / np.linalg.norm(front) / np.linalg.norm(to_camera)
        # Poses turn the head a little.
        assert cosine > 0.8


def test_the_rasterizers_view_agrees_with_the_camera() -> None:
    camera = station(0, 1, 0).camera
    points = np.random.default_rng(0).uniform([-3, 0, -15], [3, 2, -6], (50, 3))
    window = Window(-40.0, -90.0, 70.0, 160.0)
    expected = window.to_image(camera.project(points), 256, 128)
    view = window_view(camera, window, (256, 128))
    np.testing.assert_allclose(view.project(points)[:, :2], expected, atol=1e-6)


def test_people_stand_on_the_ground_and_cover_the_window() -> None:
    here = station(0, 0, 0)
    figure = place_figure(dressed_person(Wearer(5)), "walking", 0.0, -8.0, 30.0, np.random.default_rng(1))
    assert abs(figure.points()[:, 1].min()) < 0.08
    window = _window(figure, here.camera)
    canvas = render_place(here.place, here.camera, window, here.light, (128, 64))
    alpha = draw_figure(canvas, figure, here.camera, window, here.light).alpha
    assert 0.1 < alpha.mean() < 0.7
    assert figure.share_inside(here.camera, window) == 1.0
    half = dataclasses.replace(window, height=window.height / 2)
    assert 0.25 < figure.share_inside(here.camera, half) < 0.75


def test_streets_change_with_the_part_of_the_view_and_repeat() -> None:
    here = station(0, 2, 0)
    window = Window(-60.0, -60.0, 60.0, 120.0)
    first = render_place(here.place, here.camera, window, here.light, (64, 32))
    assert np.isfinite(first).all() and first.min() >= 0 and first.std() > 0.005
    np.testing.assert_array_equal(first, render_place(here.place, here.camera, window, here.light, (64, 32)))
    elsewhere = render_place(
        here.place, here.camera, dataclasses.replace(window, left=40.0), here.light, (64, 32)
    )
    assert np.abs(first - elsewhere).mean() > 0.002


def test_a_finer_picture_of_a_street_is_the_same_street() -> None:
    here = station(0, 2, 0)
    window = Window(-60.0, -60.0, 60.0, 120.0)
    coarse = render_place(here.place, here.camera, window, here.light, (64, 32))
    fine = render_place(here.place, here.camera, window, here.light, (256, 128))
    shrunk = cv2.resize(fine, (32, 64), interpolation=cv2.INTER_AREA)
    assert np.abs(shrunk - coarse).mean() < 0.25 * coarse.mean()


def test_nobody_walks_behind_the_walls() -> None:
    for camid in range(12):
        here = station(0, camid, 0)
        px, pz, *_ = here.place.wall_planes[0]
        assert is_free(here.place, 0.0, -here.camera.distance[0])
        assert not is_free(here.place, px * 1.2, pz * 1.2)


@pytest.mark.parametrize("kind", KINDS)
def test_sprites_are_premultiplied_and_touch_the_ground(kind: str) -> None:
    art = sprite(kind, 1)
    assert art.rgba.dtype == np.float32 and art.rgba.min() >= 0 and art.rgba.max() <= 1
    assert (art.rgba[..., :3].max(-1) <= art.rgba[..., 3] * 1.35 + 1e-3).all()
    assert art.rgba[-6:, :, 3].max() > 0.5


def test_things_hide_what_they_cover_and_nothing_outside_the_window() -> None:
    here = station(0, 0, 0)
    figure = place_figure(dressed_person(Wearer(5)), "standing", 0.0, -8.0, 0.0, np.random.default_rng(1))
    window = _window(figure, here.camera)
    canvas = np.full((128, 64, 3), 0.5, np.float32)
    box = Thing(sprite("boxes", 0), 0.0, -7.0, False, np.ones(3))
    alpha = draw_thing(canvas, box, here.camera, window, here.light)
    assert alpha is not None and alpha[:40].max() == 0 and alpha[80:].mean() > 0.2
    assert draw_thing(canvas, dataclasses.replace(box, x=30.0), here.camera, window, here.light) is None


def test_contact_shadow_is_darkest_in_its_middle() -> None:
    canvas = np.ones((40, 40, 3), np.float32)
    soften_ground(canvas, np.array([20.0, 20.0]), 6.0, 3.0, 0.5)
    assert canvas[20, 20, 0] == pytest.approx(0.5, abs=0.02)
    assert canvas[20, 26, 0] < canvas[26, 20, 0]
    assert canvas[0, 0, 0] == 1.0


def test_visibility_tells_good_crops_from_junk() -> None:
    specs = synthetic_reid_index("tiny", "gallery")
    good = [draw_shot(spec).visibility for spec in specs if spec.pid > 0][:8]
    junk = [draw_shot(spec).visibility for spec in [spec for spec in specs if spec.pid == -1][:8]]
    assert np.mean(good) > 0.75 and min(good) > 0.2
    assert np.mean(junk) < np.mean(good) - 0.25
    assert all(0 <= value <= 1 for value in good + junk)


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    folder = tmp_path / "photographs"
    folder.mkdir()
    purple = np.full((90, 120, 3), (160, 0, 160), np.uint8)
    cv2.imwrite(str(folder / "purple.png"), purple)
    return folder


def test_photographs_stand_in_for_streets(photographs: Path) -> None:
    part = crop_photograph(str(photographs), (64, 32), np.random.default_rng(0))
    assert part.shape == (64, 32, 3) and part[..., 1].max() == 0 and part[..., 0].min() > 0.3
    image = draw_shot(pit_index("tiny", "train", backgrounds=photographs)[0]).image.astype(float)
    corner = image[:12, :6].mean((0, 1))
    assert corner[1] < 0.75 * min(corner[0], corner[2])


def test_unusable_photographs_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere does not exist"):
        pit_index("tiny", "train", backgrounds=tmp_path / "nowhere")
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(UserError, match="holds no image"):
        synthetic_reid_index("tiny", "train", backgrounds=tmp_path)
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8 not a picture")
    spec = pit_index("tiny", "train", backgrounds=tmp_path)[0]
    with pytest.raises(UserError, match=r"broken\.jpg cannot be read"):
        draw_shot(spec)


def _specs(name: str, split: str = "train", **probabilities: float) -> list[CropSpec]:
    """Every ninth picture of a configuration, with a variety of its own."""
    config = SYNTHETIC_REID[name]
    config = dataclasses.replace(config, variety=Variety(**probabilities))  # type: ignore[arg-type]
    return list(synthetic_reid_index(config, split)[::9])


def test_a_street_looks_as_it_did_before_there_was_variety() -> None:
    # Grey levels on a grid of 4 x 2, from the version before; two steps for other versions of the codecs.
    for name, index, levels in (
        ("tiny", 5, [[136, 91], [130, 104], [117, 111], [103, 109]]),
        ("tiny", 900, [[137, 132], [146, 156], [140, 142], [140, 133]]),
        ("smoke", 3, [[91, 94], [118, 132], [157, 157], [97, 121]]),
    ):
        image = draw_shot(synthetic_reid_index(name, "train")[index]).image
        grid = cv2.resize(image, (2, 4), interpolation=cv2.INTER_AREA).mean(2)
        np.testing.assert_allclose(grid, levels, atol=2)


@pytest.mark.parametrize("field", ["own_look", "tight_boxes", "box_errors", "covers", "backdrops", "held"])
def test_each_kind_of_variety_changes_pictures_and_leaves_people_where_they_are(field: str) -> None:
    plain, varied = _specs("smoke"), _specs("smoke", **{field: 1.0})
    for before, after in zip(plain, varied, strict=True):
        was, is_now = draw_shot(before), draw_shot(after)
        assert (was.yaw, was.action) == (is_now.yaw, is_now.action)
        assert np.abs(was.image.astype(float) - is_now.image).mean() > 0.1
        if field == "own_look":
            assert is_now.sensor.rows and not was.sensor.rows
        if field == "tight_boxes":
            # The silhouette fills the picture.
            rows = np.flatnonzero((is_now.surface.mesh != NO_MESH).any(1))
            if is_now.visibility > 0.9:
                assert np.ptp(rows) > 0.85 * len(is_now.surface.mesh)
    if field == "covers":
        seen = [np.mean([draw_shot(spec).visibility for spec in specs]) for specs in (plain, varied)]
        assert seen[1] < seen[0] - 0.03


def test_with_no_variety_a_picture_is_that_of_the_configuration_without_it() -> None:
    spec = synthetic_reid_index("smoke", "train")[0]
    np.testing.assert_array_equal(draw_shot(_specs("smoke")[0]).image, draw_shot(spec).image)


def test_what_is_held_stays_in_the_hand_through_a_pass() -> None:
    rest = BodyShape()
    heads, tails = joints(rest)
    for seed in range(12):
        thing = held_thing(rest, np.random.default_rng(seed))
        if thing.hangs_from is None:
            bone = int(thing.bones[0, 0])
            palm = heads[bone] + 0.8 * (tails[bone] - heads[bone])
            assert load_body().bones[bone] in ("LeftHand", "RightHand")
            assert np.linalg.norm(thing.vertices.mean(0) - palm) < 0.06
        else:
            assert thing.hangs_from[0] in ("LeftHand", "RightHand") and thing.vertices[:, 1].max() < 0
    assert {held_thing(rest, np.random.default_rng(seed)).name for seed in range(40)} == {
        *("papers", "phone", "bottle", "carrier bag")
    }


def test_the_world_is_drawn_with_every_kind_of_variety() -> None:
    shots = [draw_shot(spec) for spec in synthetic_reid_index("world_smoke", "train")[::4]]
    assert {shot.image.shape for shot in shots} == {(128, 64, 3)}
    # Every camera has a resolution of its own; some pictures have, too.
    assert min(shot.sensor.rows for shot in shots) > 0 and len({shot.sensor.rows for shot in shots}) > 6
    assert np.mean([shot.visibility for shot in shots]) > 0.7
