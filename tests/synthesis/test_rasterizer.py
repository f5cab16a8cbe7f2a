"""Projection, visibility, texture lookup and light of the rasterizer."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from san_tf.errors import UserError
from san_tf.synthesis.body import BodyShape, load_body, shaped
from san_tf.synthesis.mesh import Mesh
from san_tf.synthesis.pose import sample_pose, walking
from san_tf.synthesis.rasterizer import Frame, Light, View, draw, to_linear, to_srgb
from san_tf.synthesis.skeleton import mirrored, pose_vertices
from san_tf.synthesis.texels import mirror_map, texel_map

SHAPE = BodyShape(sex=0.7)
FLAT = Light(color=(0, 0, 0), sky=(1, 1, 1), ground=(1, 1, 1))
SQUARE = np.array([[0, 1, 2], [0, 2, 3]], np.int32)
CORNERS_UV = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], np.float32)


def square(z: float, half: float = 1.0, **surface) -> Mesh:
    """An upright square that faces +z."""
    corners = np.array([[-half, -half, z], [half, -half, z], [half, half, z], [-half, half, z]])
    return Mesh(corners, SQUARE, **(surface or {"colors": np.ones((4, 3), np.float32)}))


def front(size=(64, 64), focal=64.0, distance=4.0, target=(0.0, 0.0, 0.0)) -> View:
    """A camera on the +z axis."""
    return View.looking((target[0], target[1], target[2] + distance), target, focal, size)


def person(pose, texture, yaw=0.0, **surface) -> Mesh:
    """A posed body, turned about the vertical so that positive yaw shows the left side."""
    body, angle = load_body(), -np.radians(yaw)
    turn = np.array([[np.cos(angle), 0, -np.sin(angle)], [0, 1, 0], [np.sin(angle), 0, np.cos(angle)]])
    vertices = pose_vertices(shaped(SHAPE), SHAPE, pose) @ turn
    return Mesh(vertices, body.faces, texture, body.uv, body.uv_faces, part=body.face_part, **surface)


def body_view(size=(256, 128)) -> View:
    """A camera in front of a body at the origin."""
    return View.looking((0, 0.9, 5), (0, 0.9, 0), focal=2.45 * size[0], size=size)


def uv_texture(size: int) -> np.ndarray:
    """A linear texture whose red and green are its own u and v."""
    at = (np.arange(size) + 0.5) / size
    u, v = np.meshgrid(at, 1 - at)
    return np.stack([u, v, np.zeros_like(u)], -1).astype(np.float32)


def test_pixels_of_a_square_by_hand():
    """Half a metre at distance 4 and focal 64 covers 8 pixels each side of the centre (32, 32)."""
    frame = draw([square(0.0, half=0.5)], front(), FLAT)
    expected = np.zeros((64, 64), np.float32)
    expected[24:40, 24:40] = 1
    np.testing.assert_array_equal(frame.alpha, expected)
    np.testing.assert_allclose(frame.depth[30, 30], 4, rtol=1e-6)
    assert np.isinf(frame.depth[0, 0]) and (frame.uv[0, 0] == -1).all() and frame.mesh[0, 0] == -1
    np.testing.assert_allclose(frame.rgb[30, 30], 1, atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(near=st.floats(1.5, 4), far=st.floats(4, 12), column=st.integers(8, 55), row=st.integers(8, 55))
def test_perspective_correctness_against_a_ray(near, far, column, row):
    """A slanted square: the pixel's ray, cut with the plane, gives u, v and depth."""
    # x from -1 at depth `near` to +1 at depth `far`, camera in the origin looking along -z
    corners = np.array([[-1, -1, -near], [1, -1, -far], [1, 1, -far], [-1, 1, -near]], float) * [3, 3, 1]
    mesh = Mesh(corners, SQUARE, uv_texture(64), CORNERS_UV, SQUARE, double_sided=True)
    view = View(np.diag([1.0, -1.0, -1.0]), np.zeros(3), 32.0, (32, 32), (64, 64))
    frame = draw([mesh], view, FLAT)
    ray = np.array([(column + 0.5 - 32) / 32, -(row + 0.5 - 32) / 32, -1.0])
    slope = (far - near) / 6  # depth = near + slope * (x + 3)
    depth = (near + 3 * slope) / (1 - slope * ray[0])
    point = ray * depth
    u, v = (point[:2] + 3) / 6
    if not (0.02 < u < 0.98 and 0.02 < v < 0.98):
        return
    np.testing.assert_allclose(frame.uv[row, column], [u, v], atol=1e-5)
    np.testing.assert_allclose(frame.depth[row, column], depth, rtol=1e-5)
    np.testing.assert_allclose(frame.rgb[row, column, :2], [u, v], atol=1e-5)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_the_nearer_surface_wins_in_any_order(order):
    red = square(0.0, 0.5, colors=np.tile(np.float32([1, 0, 0]), (4, 1)))
    blue = square(-1.0, 1.0, colors=np.tile(np.float32([0, 0, 1]), (4, 1)))
    frame = draw([(red, blue)[i] for i in order], front(), FLAT)
    np.testing.assert_allclose(frame.rgb[32, 32], [1, 0, 0], atol=1e-6)
    np.testing.assert_allclose(frame.rgb[32, 22], [0, 0, 1], atol=1e-6)
    assert frame.mesh[32, 32] == order.index(0) and frame.mesh[32, 22] == order.index(1)


def test_crossing_surfaces_meet_where_they_cross():
    """A square through the plane z = 0, tilted by 45 degrees about y: it is in front for x > 0 only."""
    flat = square(0.0)
    tilted = Mesh(flat.vertices + flat.vertices[:, [2, 2, 0]] * [0, 0, 0.5], SQUARE, colors=flat.colors * 0.5)
    frame = draw([flat, tilted], front(), FLAT)
    covered = frame.alpha[32] > 0
    columns = np.flatnonzero(covered)
    np.testing.assert_array_equal(frame.mesh[32, covered], (columns >= 32).astype(int))


def test_back_faces_are_culled_unless_double_sided():
    behind = View.looking((0, 0, -4), (0, 0, 0), 64.0, (64, 64))
    assert draw([square(0.0)], behind).alpha.sum() == 0
    twin = Mesh(square(0.0).vertices, SQUARE, colors=np.ones((4, 3), np.float32), double_sided=True)
    light = Light(direction=(0, 0, -1), color=(1, 1, 1), sky=(0, 0, 0), ground=(0, 0, 0))
    frame = draw([twin], behind, light)
    assert frame.alpha.sum() == 32 * 32
    np.testing.assert_allclose(frame.rgb[32, 32], 1, atol=1e-6, err_msg="lit from the side that is seen")


def test_what_is_behind_the_camera_is_left_out():
    assert draw([square(5.0)], front()).alpha.sum() == 0


def test_lambert_and_hemisphere_by_hand():
    light = Light(
        (0, 3, 4),
        (0.5, 0.5, 0.5),
        sky=(0.2, 0.2, 0.2),
        ground=(0.1, 0.1, 0.1),
        fill_direction=(0, 0, 1),
        fill=(0.05,) * 3,
    )
    mesh = square(0.0, colors=np.full((4, 3), 0.5, np.float32))
    # normal +z: key cosine 4/5, half of the sky and half of the ground, fill cosine 1
    expected = 0.5 * (0.15 + 0.8 * 0.5 + 0.05)
    np.testing.assert_allclose(draw([mesh], front(), light).rgb[32, 32], expected, rtol=1e-5)
    dark = Mesh(mesh.vertices, SQUARE, colors=mesh.colors, occlusion=np.full(4, 0.5, np.float32))
    expected = 0.5 * (0.5 * 0.15 + 0.8 * 0.5 + 0.5 * 0.05)
    np.testing.assert_allclose(draw([dark], front(), light).rgb[32, 32], expected, rtol=1e-5)


def test_gloss_adds_light_where_the_lamp_mirrors():
    light = Light((0, 0, 1), (0.5,) * 3, sky=(0,) * 3, ground=(0,) * 3)
    dull, shiny = (
        Mesh(square(0.0).vertices, SQUARE, colors=np.zeros((4, 3), np.float32), gloss=g) for g in (0.0, 0.4)
    )
    assert draw([dull], front(), light).rgb.max() == 0
    highlight = draw([shiny], front(), light).rgb[..., 0]
    np.testing.assert_allclose(highlight.max(), 0.2, rtol=1e-2)
    assert highlight[32, 32] > highlight[32, 17] > 0


def test_shadow_falls_on_the_wall_behind():
    """Light from straight in front of a small square leaves its outline on the wall; from above it misses."""
    wall, screen = square(-1.0, 1.0), square(0.0, 0.3)
    view = View.looking((3, 0, 2), (0, 0, -1), 100.0, (64, 64))
    ahead = {"color": (1.0,) * 3, "sky": (0.0,) * 3, "ground": (0.0,) * 3}
    lit = draw([wall, screen], view, Light((0, 0, 1), **ahead))
    shaded = draw([wall, screen], view, Light((0, 0, 1), shadows=True, **ahead))
    on_wall = lit.mesh == 0
    center = view.project(np.array([[0, 0, -1.0], [0.7, 0.7, -1.0]]))
    (x0, y0, _), (x1, y1, _) = center
    assert on_wall[int(y0), int(x0)] and on_wall[int(y1), int(x1)]
    assert lit.rgb[int(y0), int(x0), 0] > 0.99 and shaded.rgb[int(y0), int(x0), 0] < 0.01
    assert shaded.rgb[int(y1), int(x1), 0] > 0.99
    np.testing.assert_allclose(shaded.rgb[shaded.mesh == 1], 1, atol=1e-5, err_msg="no surface shades itself")


def test_supersampling_averages_coverage_and_color():
    coarse = draw([square(0.0, half=0.53)], front(), FLAT, supersample=4)
    exact = 2 * 0.53 * 64 / 4
    assert abs(coarse.alpha.sum() - exact**2) < 0.05 * exact**2
    assert 0 < coarse.alpha[23, 32] < 1 and coarse.alpha[32, 32] == 1
    np.testing.assert_allclose(coarse.rgb[coarse.alpha > 0], 1, atol=1e-5, err_msg="no dark fringe")
    background = np.zeros((64, 64, 3), np.float32)
    np.testing.assert_allclose(coarse.over(background)[..., 0], coarse.alpha, atol=1e-5)


def test_srgb_round_trip_and_known_values():
    every = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(to_srgb(to_linear(every)), every)
    np.testing.assert_allclose(to_linear(np.uint8([0, 128, 255])), [0, 0.21586, 1], atol=1e-5)
    np.testing.assert_array_equal(to_srgb(np.array([-1.0, 2.0])), [0, 255])


def test_a_texture_of_its_own_coordinates_comes_back_as_uv():
    size = 512
    frame = draw([person(walking(0.1), uv_texture(size))], body_view(), FLAT)
    seen = frame.alpha > 0
    assert seen.sum() > 3000
    inner = seen & (frame.uv > 1 / size).all(-1) & (frame.uv < 1 - 1 / size).all(-1)
    np.testing.assert_allclose(frame.rgb[inner, :2], frame.uv[inner], atol=1e-5)


def test_uv_and_part_agree_with_the_texel_map():
    size = 256
    frame = draw([person(walking(0.4), np.zeros((size, size, 3), np.uint8))], body_view())
    seen = frame.alpha > 0
    column = np.clip((frame.uv[seen, 0] * size).astype(int), 0, size - 1)
    row = np.clip(((1 - frame.uv[seen, 1]) * size).astype(int), 0, size - 1)
    assert texel_map(size).mask[row, column].all()
    assert (texel_map(size).part[row, column] == frame.part[seen]).mean() > 0.95
    assert (frame.part[~seen] == 0).all()


@pytest.mark.parametrize("yaw", [0, 70, 180])
def test_mirrored_pose_and_texture_render_as_the_flipped_image(yaw):
    size, rng = 256, np.random.default_rng(2)
    # soft colours: the mirrored texture is right to half a texel, so hard edges would differ along themselves
    texels = texel_map(size)
    texture = (0.5 + 0.4 * np.sin(4 * texels.position)).astype(np.float32)
    mirror = mirror_map(size)
    pose = sample_pose(rng, "standing")
    light = {"color": (0.6,) * 3, "direction": (0.5, 0.6, 0.6)}
    other = light | {"direction": (-0.5, 0.6, 0.6)}
    one = draw([person(pose, texture, yaw)], body_view(), Light(**light))
    two = draw(
        [person(mirrored(pose), texture[mirror[..., 0], mirror[..., 1]], -yaw)], body_view(), Light(**other)
    )
    flipped = two.rgb[:, ::-1]
    both = (one.alpha > 0) & (two.alpha[:, ::-1] > 0)
    assert np.mean((one.alpha > 0) != (two.alpha[:, ::-1] > 0)) < 0.001
    assert np.abs(one.rgb - flipped)[both].mean() < 0.006
    assert np.quantile(np.abs(one.rgb - flipped)[both], 0.99) < 0.05
    unmirrored = draw([person(mirrored(pose), texture, -yaw)], body_view(), Light(**other)).rgb[:, ::-1]
    assert np.abs(one.rgb - unmirrored)[both].mean() > 0.03, "without the mirrored texture it differs"


def digest(frame: Frame) -> str:
    """A hash of every bit of a frame."""
    arrays = (frame.rgb, frame.alpha, frame.uv, frame.depth, frame.part, frame.mesh)
    return hashlib.sha256(b"".join(a.tobytes() for a in arrays)).hexdigest()


SAME_FRAME = """
import numpy as np
from test_rasterizer import person, body_view, digest, draw, walking, Light
texture = np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8)
print(digest(draw([person(walking(0.3), texture, 40)], body_view(), Light(shadows=True), 2)))
"""


def test_same_bits_in_another_process():
    texture = np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8)
    here = digest(draw([person(walking(0.3), texture, 40)], body_view(), Light(shadows=True), 2))
    done = subprocess.run(
        [sys.executable, "-c", SAME_FRAME],
        cwd=__file__.rsplit("/", 1)[0],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == here


def test_view_projects_where_it_looks():
    view = View.looking((1, 2, 3), (0, 1, 0), 100.0, (40, 60))
    np.testing.assert_allclose(view.project(np.array([[0, 1.0, 0]]))[0], [30, 20, np.sqrt(11)], atol=1e-9)
    above = view.project(np.array([[0, 1.1, 0]]))[0]
    assert above[1] < 20, "up is up"
    rolled = View.looking((1, 2, 3), (0, 1, 0), 100.0, (40, 60), roll=np.pi / 2).project(
        np.array([[0, 1.1, 0]])
    )[0]
    assert rolled[0] > 30 and abs(rolled[1] - 20) < 0.2, "clockwise"


def test_bad_input():
    with pytest.raises(UserError, match="supersample"):
        draw([square(0.0)], front(), supersample=5)
    with pytest.raises(UserError, match="direction"):
        draw([square(0.0)], front(), Light(direction=(0, 0, 0)))
    with pytest.raises(UserError, match="straight up"):
        View.looking((0, 5, 0), (0, 0, 0), 10.0, (8, 8))
    with pytest.raises(UserError, match="positive size"):
        View.looking((0, 0, 5), (0, 0, 0), 10.0, (0, 8))
    empty = draw([], front())
    assert empty.alpha.sum() == 0 and empty.rgb.shape == (64, 64, 3)
