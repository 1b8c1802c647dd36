"""What the contract tests share: the error, the tolerances, and comparisons row by row."""

from __future__ import annotations

import torch
from torch import Tensor

# Rounding: identities hold to about 1e-15 (1e-7) times the number of operations; both leave three orders of margin.
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4}


class ContractError(AssertionError):
    """A piece breaks a contract of this package.

    Example:
        >>> from midguide.operators import Mask
        >>> from midguide.testing import check_operator
        >>> class Wrong(Mask):
        ...     def adjoint(self, y):
        ...         return 2 * y
        >>> try:
        ...     check_operator(Wrong(torch.ones(4, dtype=torch.bool)), (4,))
        ... except AssertionError as error:
        ...     print(str(error).partition(" is off")[0])
        Wrong: <A x, y> = <x, A^T y>
    """


def require(holds: bool, piece: object, message: str) -> None:
    """Raise a `ContractError` that names the piece unless `holds`."""
    if not holds:
        raise ContractError(f"{type(piece).__name__}: {message}")


def norm(x: Tensor) -> Tensor:
    """Euclidean norm of each row, shape (B,)."""
    return x.reshape(len(x), -1).norm(dim=1)
