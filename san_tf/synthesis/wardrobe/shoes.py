"""Shoes and socks: area, colour and thickness."""

from __future__ import annotations

import numpy as np

from san_tf.synthesis.wardrobe.coordinates import Array, BodyPoints, bump, ramp
from san_tf.synthesis.wardrobe.face import blend
from san_tf.synthesis.wardrobe.noise import solid_noise
from san_tf.synthesis.wardrobe.person import Shoes

SHOE_KINDS = ("sneakers", "leather", "boots", "sandals", "flats")
_SOLE = {"sneakers": 0.026, "leather": 0.016, "boots": 0.022, "sandals": 0.012, "flats": 0.010}


def shoe_cover(points: BodyPoints, shoes: Shoes) -> Array:
    """Share of each point that the shoe hides, `(N,)` float32 in [0, 1]."""
    y, z = points.y, points.z
    low = ~points.on_arm & (y < 0.35)
    if shoes.kind == "boots":
        return np.asarray(ramp(y, 0.205, 0.195) * low, np.float32)
    if shoes.kind == "sandals":
        strap = bump(z, 0.125, 0.016) + bump(z - 0.9 * (y - 0.06), 0.045, 0.014) * (y > 0.02)
        sole = ramp(y, 0.016, 0.011)
        return np.asarray(np.clip(np.maximum(strap, sole), 0, 1) * low * ramp(y, 0.1, 0.095), np.float32)
    if shoes.kind == "flats":
        # cut out over the instep
        edge = 0.045 - 0.03 * ramp(z, 0.06, 0.10) + 0.06 * ramp(z, 0.125, 0.15) + 0.012 * ramp(z, -0.0, -0.02)
        return np.asarray(ramp(y - edge, 0.003, -0.003) * low, np.float32)
    edge = 0.072 + 0.018 * ramp(z, 0.01, -0.02) + 0.022 * ramp(z, 0.03, 0.07)
    if shoes.kind == "leather":
        edge = edge - 0.008
    return np.asarray(ramp(y - edge, 0.003, -0.003) * low, np.float32)


def sock_cover(points: BodyPoints, shoes: Shoes) -> Array:
    """Share of each point that the sock hides, `(N,)` float32 in [0, 1]."""
    if shoes.sock_top <= 0:
        return np.zeros(len(points.y), np.float32)
    return np.asarray(
        ramp(points.y, shoes.sock_top + 0.004, shoes.sock_top - 0.004) * ~points.on_arm, np.float32
    )


def paint_socks(points: BodyPoints, rgb: Array, shoes: Shoes) -> None:
    """Paints the socks, in place.

    Args:
        points: `BodyPoints` of N texels.
        rgb: `(N, 3)` float32 in [0, 255], changed in place.
        shoes: `Shoes`.
    """
    cover = sock_cover(points, shoes)
    ribs = 1 - 0.08 * np.sin(points.around * 500) - 0.12 * bump(points.y, shoes.sock_top - 0.022, 0.004)
    blend(rgb, np.array(shoes.sock.rgb, np.float32) * ribs[:, None], cover)


def paint_shoes(points: BodyPoints, rgb: Array, shoes: Shoes, seed: int) -> None:
    """Paints the shoes, in place.

    Args:
        points: `BodyPoints` of N texels.
        rgb: `(N, 3)` float32 in [0, 255], changed in place.
        shoes: `Shoes`.
        seed: `int`. Drives scuffs.
    """
    rows = np.flatnonzero((points.y < 0.35) & ~points.on_arm)
    cover = shoe_cover(points, shoes)[rows]
    y, z = points.y[rows], points.z[rows]
    color = np.tile(np.array(shoes.color.rgb, np.float32), (len(rows), 1))
    up = points.normal[rows, 1]
    if shoes.kind == "sneakers":
        laces = ramp(z, 0.055, 0.065) * ramp(z, 0.135, 0.125) * ramp(up, 0.35, 0.6)
        blend(color, shoes.accent.rgb, laces * (0.35 + 0.6 * (np.sin(z * 420) > 0)))
        # a swoosh on both flanks
        flank = bump(y - 0.032 - 0.22 * (0.09 - z), 0.0, 0.007) * ramp(np.abs(z - 0.055), 0.055, 0.045)
        blend(color, shoes.accent.rgb, 0.85 * flank * ramp(up, 0.6, 0.4))
        blend(color, shoes.sole.rgb, 0.7 * ramp(z, 0.165, 0.175) * ramp(y, 0.05, 0.04))
    elif shoes.kind in ("leather", "boots"):
        gleam = bump(z, 0.155, 0.018) * ramp(up, 0.3, 0.7)
        color = color * (1 + 0.35 * gleam)[:, None] + 14 * gleam[:, None]
        color *= (1 - 0.25 * bump(z, 0.135, 0.004))[:, None]
    scuff = solid_noise(points.position[rows], seed + 51, 0.02, 2) - np.float32(0.5)
    shade = 1 + 0.18 * scuff + 0.12 * (up - 0.3)
    color *= shade[:, None]
    height = _SOLE[shoes.kind] + 0.006 * ramp(z, 0.05, -0.01)
    sole = ramp(y - height, 0.002, -0.002)
    blend(color, np.array(shoes.sole.rgb, np.float32), sole)
    blend(color, (30, 28, 27), ramp(-up, 0.75, 0.9))  # tread
    color *= (1 - 0.35 * bump(y - height, 0.003, 0.003))[:, None]
    part = rgb[rows]
    blend(part, color, cover)
    rgb[rows] = part


def shoe_offsets(points: BodyPoints, shoes: Shoes) -> Array:
    """Thickness of shoes and socks, `(V,)` float32 metres, 0 to about 0.02."""
    thick = {"sneakers": 0.011, "leather": 0.008, "boots": 0.013, "sandals": 0.003, "flats": 0.004}[
        shoes.kind
    ]
    # the tip hides the toes; the sole does not move, so the person stays on the ground
    tip = 0.009 * ramp(points.z, 0.12, 0.16)
    sole = 0.006 * ramp(points.y, 0.03, 0.015) * (shoes.kind in ("sneakers", "boots"))
    shoe = shoe_cover(points, shoes) * (thick + tip + sole) * (1 - ramp(-points.normal[:, 1], 0.3, 0.8))
    return np.asarray(np.maximum(shoe, 0.003 * sock_cover(points, shoes)), np.float32)
