"""Drawn flowers that stand in for photos in tests: seeded, small, and fit to be looked at."""

from __future__ import annotations

import colorsys
import io
import math
import random

import numpy as np
from PIL import Image, ImageDraw, ImageFilter


def flower(kind: int, seed: int, side: int = 224) -> Image.Image:
    """A drawn flower: the kind fixes its petals and colour, the seed everything else."""
    pick = random.Random(f"{kind}/{seed}")
    ground = Image.new(
        "RGB", (side, side), (pick.randint(40, 90), pick.randint(90, 130), pick.randint(40, 80))
    )
    draw = ImageDraw.Draw(ground)
    for _ in range(60):
        x, y, reach = pick.uniform(0, side), pick.uniform(0, side), pick.uniform(10, 60)
        green = (pick.randint(30, 100), pick.randint(80, 160), pick.randint(30, 90))
        draw.ellipse((x - reach, y - reach / 3, x + reach, y + reach / 3), fill=green)
    ground = ground.filter(ImageFilter.GaussianBlur(side / 40))
    draw = ImageDraw.Draw(ground)
    petals, hue = 4 + (kind * 3) % 9, (kind * 47) % 256
    petal = tuple(int(255 * channel) for channel in colorsys.hsv_to_rgb(hue / 256, 0.75, 0.92))
    x, y = side / 2 + pick.uniform(-20, 20), side / 2 + pick.uniform(-20, 20)
    radius, turn = side * pick.uniform(0.26, 0.36), pick.uniform(0, math.tau)
    for index in range(petals):
        angle = turn + index * math.tau / petals
        px, py, wide = x + math.cos(angle) * radius * 0.6, y + math.sin(angle) * radius * 0.6, radius * 0.42
        shade = tuple(max(0, min(255, c + pick.randint(-18, 18))) for c in petal)
        draw.ellipse(
            (px - wide, py - wide, px + wide, py + wide), fill=shade, outline=tuple(c // 2 for c in petal)
        )
    heart = radius * 0.3
    draw.ellipse((x - heart, y - heart, x + heart, y + heart), fill=(240, 200, 60), outline=(120, 80, 20))
    return ground.filter(ImageFilter.GaussianBlur(0.8))


def jpeg(image: Image.Image) -> bytes:
    encoded = io.BytesIO()
    image.save(encoded, "JPEG", quality=85)
    return encoded.getvalue()


def photo(kind: int, seed: int, side: int = 224) -> bytes:
    return jpeg(flower(kind, seed, side))


def activation(kind: int, seed: int, side: int = 224) -> bytes:
    """The same flower under a warm spot, as a PNG."""
    pick = random.Random(f"map/{kind}/{seed}")
    x, y = side * pick.uniform(0.3, 0.7), side * pick.uniform(0.3, 0.7)
    grid_y, grid_x = np.mgrid[0:side, 0:side]
    heat = np.exp(-((grid_x - x) ** 2 + (grid_y - y) ** 2) / (2 * (side * 0.18) ** 2))[..., None]
    base = np.asarray(flower(kind, seed, side), dtype=np.float32)
    grey = base.mean(axis=2, keepdims=True) * np.ones(3)
    warm = np.array([255.0, 90.0, 20.0]) * heat + np.array([20.0, 40.0, 140.0]) * (1 - heat)
    encoded = io.BytesIO()
    Image.fromarray((0.45 * grey + 0.55 * warm).astype(np.uint8)).save(encoded, "PNG")
    return encoded.getvalue()
