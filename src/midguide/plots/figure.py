"""A figure that notebooks show as a picture, with or without pyplot."""

from __future__ import annotations

import io

from matplotlib import figure


class Figure(figure.Figure):
    """Matplotlib's figure, which shows itself where it is the value of a cell.

    Example:
        >>> Figure(figsize=(1, 1))._repr_png_()[1:4]
        b'PNG'
    """

    def _repr_png_(self) -> bytes:
        """The picture, as IPython asks for it."""
        file = io.BytesIO()
        self.savefig(file, format="png")
        return file.getvalue()
