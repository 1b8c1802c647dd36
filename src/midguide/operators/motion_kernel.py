"""Kernels of camera shake: where a point of the scene travels on the sensor while the shutter is open.

Giacomo Boracchi and Alessandro Foi (2012), "Modeling the performance of image restoration from motion blur", IEEE
Transactions on Image Processing 21(8), 3502-3517. Three causes change the velocity of the point: Gaussian
accelerations, a pull back to its start (the hand corrects), and sudden shakes that nearly turn it round. Kupyn et al.
(2018, DeblurGAN) train on such kernels.

Differences from the paper: The point moves at constant speed, as in DeblurGAN, so that its path has a known length. One
intensity scales all three changes, from a straight line (0) to a very shaky path (1).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from midguide.errors import ConfigError
from midguide.maths.rng import Rng

INSTANTS = 1000
"""Points of a path; a kernel of 61 pixels sees steps of less than 0.06 pixels."""

# Largest changes of a unit velocity, and of the length of the path, during one exposure at intensity 1.
ACCELERATION = 6.0
PULL = 8.0
SHAKES = 4.0
STRETCH = 3.0


def motion_path(length: float, intensity: float, rng: Rng) -> Tensor:
    """A random path of a point on the sensor during one exposure.

    Args:
        length: length of the straight path, in pixels; others are up to `1 + 3 intensity` times as long.
        intensity: how shaky, from 0 to 1.
        rng: one stream.

    Returns:
        Positions (row, column) in pixels, the first one zero, float64, shape (1001, 2).

    Raises:
        ConfigError: If the intensity is not in [0, 1].
    """
    if not 0.0 <= intensity <= 1.0:
        raise ConfigError(f"intensity must be in [0, 1], got {intensity}", hint="0 is a straight line, 1 very shaky")
    angle, stretch, acceleration, pull, shakes = rng.uniform(torch.empty(1, 5, dtype=torch.float64))[0].tolist()
    noise = rng.normal(torch.empty(1, INSTANTS, 2, dtype=torch.float64))[0].tolist()
    chances = rng.uniform(torch.empty(1, INSTANTS, 2, dtype=torch.float64))[0].tolist()
    step = 1 / INSTANTS
    start = velocity = complex(math.cos(2 * math.pi * angle), math.sin(2 * math.pi * angle))
    path = [0j]
    for (across, along), (chance, turn) in zip(noise, chances, strict=True):
        path.append(path[-1] + step * velocity)
        change = math.sqrt(step) * ACCELERATION * acceleration * complex(across, along) - step * PULL * pull * path[-1]
        velocity += intensity * change
        if chance < intensity * SHAKES * shakes * step:
            velocity *= complex(-math.cos(turn - 0.5), math.sin(turn - 0.5))  # turned round, up to half a radian
        size = abs(velocity)
        velocity = velocity / size if size > 0 else start
    points = torch.tensor([(point.imag, point.real) for point in path], dtype=torch.float64)
    return length * (1 + STRETCH * intensity * stretch) * points


def motion_kernel(size: int, intensity: float, rng: Rng) -> Tensor:
    """The kernel of a random path: how long the point stayed at each pixel, as a share of the exposure.

    The straight path covers half the kernel; a path that would leave the kernel shrinks until it fits. The four pixels
    around an instant share it (bilinearly), which keeps the mean of the positions. So the center of mass is exactly the
    center of the kernel.

    Args:
        size: side of the kernel in pixels, odd.
        intensity: how shaky, from 0 (a straight line) to 1.
        rng: one stream.

    Returns:
        Kernel of sum one, float64, shape (size, size).

    Raises:
        ConfigError: If `size` is not odd and positive, or the intensity not in [0, 1].

    Example:
        >>> kernel = motion_kernel(15, 0.5, Rng([(0, "motion-blur", 0)]))
        >>> kernel.shape, round(float(kernel.sum()), 6)
        (torch.Size([15, 15]), 1.0)
    """
    if size < 1 or size % 2 == 0:
        raise ConfigError(
            f"the side of a motion kernel must be odd and positive, got {size}", hint="15 is that of a 64x64 image"
        )
    radius = size // 2
    path = motion_path(radius, intensity, rng)
    path = path - path.mean(0)
    path = path * min(1.0, radius / max(float(path.abs().max()), 1e-300))
    place = (path + radius).clamp(0, size - 1)  # removes rounding errors only
    corner = place.floor().clamp_max(max(size - 2, 0))
    row, column = (place - corner).unbind(1)
    near = corner.long()
    far = (near + 1).clamp_max(size - 1)
    kernel = torch.zeros(size, size, dtype=torch.float64)
    for rows, vertical in ((near[:, 0], 1 - row), (far[:, 0], row)):
        for columns, horizontal in ((near[:, 1], 1 - column), (far[:, 1], column)):
            kernel.index_put_((rows, columns), vertical * horizontal, accumulate=True)
    return kernel / len(path)
