"""Clothes in any colour and length, for teaching: who is to paint yellow hot pants must have seen them."""

from __future__ import annotations

import colorsys
from dataclasses import replace

import numpy as np

from san_tf.synthesis.wardrobe import colors
from san_tf.synthesis.wardrobe.person import Color, Identity, Pattern

# How high, in metres on the average body, what ends above the knee may end.
_SHORTEST = {"shorts": 0.74, "skirt": 0.74, "dress": 0.74}


def dyed(identity: Identity, share: float, rng: np.random.Generator) -> Identity:
    """Give each garment and the bag, with probability `share`, a colour drawn evenly from all colours.

    The street wears black, grey, white and blue; a generator that learns from the street alone paints a
    yellow shirt orange. As often, shorts, skirts and dresses become shorter: one that has seen none takes
    very short ones for skin. Skin, hair and patterns stay.

    Args:
        identity: as the street dresses them.
        share: probability for each of upper garment, lower garment, shoes and bag, 0 to 1.
        rng: source of randomness.

    Returns:
        `Identity`; equal to the one given where `share` is 0.

    Example:
        >>> dyed(sample_identity(3), 1.0, np.random.default_rng(0)).upper.color.name
        'dyed'
    """
    upper, lower, shoes, bag = identity.upper, identity.lower, identity.shoes, identity.bag
    chosen = rng.random(4) < share
    if chosen[0]:
        color = _any_color(rng)
        upper = replace(upper, color=color, pattern=_against(rng, upper.pattern, color))
    if chosen[1]:
        color = _any_color(rng)
        lower = replace(lower, color=color, pattern=_against(rng, lower.pattern, color), fade=0.0)
    if chosen[2]:
        shoes = replace(shoes, color=_any_color(rng))
    if chosen[3]:
        bag = replace(bag, color=_any_color(rng))
    if lower.kind in _SHORTEST and rng.random() < share:
        lower = replace(lower, hem=_shortened(rng, lower.hem, lower.kind))
    if upper.kind in _SHORTEST and rng.random() < share:
        upper = replace(upper, hem=_shortened(rng, upper.hem, upper.kind))
    return replace(identity, upper=upper, lower=lower, shoes=shoes, bag=bag)


def _shortened(rng: np.random.Generator, hem: float, kind: str) -> float:
    return round(float(rng.uniform(hem, max(hem, _SHORTEST[kind]))), 3)


def _any_color(rng: np.random.Generator) -> Color:
    """Draw hue and saturation evenly, and dark as often as bright; no cloth is pure black or white."""
    rgb = colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.1, 0.95), rng.uniform(0.2, 0.96))
    red, green, blue = np.clip(np.array(rgb) * 255, 12, 246).astype(int).tolist()
    return Color("dyed", (red, green, blue))


def _against(rng: np.random.Generator, pattern: Pattern, color: Color) -> Pattern:
    """Give a pattern colours that can be told from its new ground."""
    return replace(
        pattern,
        color=colors.draw_contrasting(rng, colors.ACCENT_WEIGHTS, color),
        accent=colors.draw_contrasting(rng, colors.ACCENT_WEIGHTS, color, 30.0),
    )
