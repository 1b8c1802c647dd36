"""A diagonal state-space layer (S4D): a long convolution whose kernel is the impulse response of a linear system.

Each channel runs `x'(t) = A x + B u`, `y = Re(C x) + D u` with a diagonal A of N complex modes in conjugate pairs. The
real parts are `-exp(log_decay)`, so that A is stable for every value of the parameters. Held constant over a step
`dt = exp(log_step)` (zero-order hold), with `z_n = dt lambda_n` and B absorbed in C, the impulse response is

    K[l] = 2 Re sum_n C_n (exp(z_n) - 1) / lambda_n exp(l z_n),

a product with a Vandermonde matrix, and `y = K * u` is computed by FFT.

References: Gu, Goel, Ré 2022, "Efficiently modeling long sequences with structured state spaces"; Gu, Gupta, Goel, Ré
2022, "On the parameterization and initialization of diagonal state space models" (S4D-Lin).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn

FIRST_STEP, LAST_STEP = 1e-3, 1e-1
"""Range of the steps dt of a new layer: memories between about 20 and 2,000 samples."""

DYNAMICS = ("log_decay", "frequency", "log_step")
"""Weights that set poles: an error of a fraction of a percent in them changes the phase a hundred samples later."""


class S4D(nn.Module):
    """Convolves every channel with the impulse responses of its own system, one for the past and one for the future.

    `y[i] = sum_{j<=i} K0[i-j] u[j] + sum_{j>i} K1[j-i-1] u[j] + D u[i]`; both responses share their poles.

    Args:
        channels: channels H.
        states: modes N of each channel, counted with their conjugates.

    Example:
        >>> S4D(4, states=8)(torch.zeros(2, 4, 100)).shape
        torch.Size([2, 4, 100])
    """

    def __init__(self, channels: int, states: int) -> None:
        super().__init__()
        pairs = states // 2
        first, last = math.log(FIRST_STEP), math.log(LAST_STEP)
        self.log_step = nn.Parameter(nn.init.uniform_(torch.empty(channels), first, last))
        self.log_decay = nn.Parameter(torch.full((channels, pairs), math.log(0.5)))
        self.frequency = nn.Parameter(math.pi * torch.arange(pairs).expand(channels, pairs).clone())
        # Complex standard normal, real and imaginary part last: optimizers and files know real numbers best.
        self.output = nn.Parameter(nn.init.normal_(torch.empty(2, channels, pairs, 2), std=math.sqrt(0.5)))
        self.skip = nn.Parameter(nn.init.normal_(torch.empty(channels)))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """What `to`, `half` and the like do with each weight; here all stay at least as precise as they are.

        Rounded to bfloat16, a frequency of 15 pi would be off by two radians at the end of 256 samples.
        """

        def kept(weight: Tensor) -> Tensor:
            moved = fn(weight)
            return weight.to(moved.device) if moved.dtype.itemsize < weight.dtype.itemsize else moved

        return super()._apply(kept, recurse)

    def poles(self) -> Tensor:
        """The diagonal of A, one of each conjugate pair, complex, shape (H, N/2); real parts are negative."""
        return torch.complex(-self.log_decay.exp(), self.frequency)

    def kernels(self, length: int) -> Tensor:
        """The first `length` values of both impulse responses, shape (2, H, length).

        With `l = i J + j` the sum is one matrix product over (mode, real and imaginary part) of size I x J. It never
        stores the H x N x length Vandermonde matrix.
        """
        poles = self.poles()
        z = self.log_step.exp()[:, None] * poles
        weights = 2 * torch.complex(*self.output.unbind(-1)) * (torch.expm1(z) / poles)
        columns = math.isqrt(length - 1) + 1
        rows = -(-length // columns)
        coarse = torch.exp(z[..., None] * columns * torch.arange(rows, device=z.device))  # (H, N/2, I)
        fine = torch.exp(z[..., None] * torch.arange(columns, device=z.device))  # (H, N/2, J)
        left = weights[..., None] * coarse
        left, right = torch.cat([left.real, -left.imag], dim=2), torch.cat([fine.real, fine.imag], dim=1)
        values = left.transpose(2, 3) @ right  # (2, H, I, J): the real part of the complex product
        return values.flatten(2)[..., :length]

    def forward(self, u: Tensor) -> Tensor:
        """Shape (B, H, length) -> (B, H, length)."""
        length, dtype = u.shape[-1], u.dtype
        with torch.autocast(u.device.type, enabled=False):  # no FFT in half precision
            past, future = self.kernels(length).unbind()
            # The future's response is stored from the end, where a circular convolution looks for negative times.
            both = nn.functional.pad(past, (0, length)) + nn.functional.pad(future.flip(-1), (length, 0))
            signal = u.to(both.dtype)
            spectrum = torch.fft.rfft(signal, n=2 * length) * torch.fft.rfft(both)
            y = torch.fft.irfft(spectrum, n=2 * length)[..., :length] + self.skip[:, None] * signal
        return y.to(dtype)
