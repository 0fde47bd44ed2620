"""Figures that show themselves in notebooks and say what they are in a terminal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from layerscope.display import html

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

    from layerscope.figures.figure import Figure

DPI = 192
"""Two pixels for each that a figure takes on the page, so that it is sharp."""
PER_INCH = 120
"""Pixels of the page for an inch of paper: a column of 3.3 inches is 400 wide."""


class Shown:
    """What every kind of figure can do: be drawn, shown in a notebook, and named."""

    key: str
    title: str
    caption: str

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.key!r}: {self.title}; {self._extent()})"

    def plot(self: Any) -> Canvas:
        """The figure as one of matplotlib, to change or to save."""
        from layerscope.figures import matplotlib

        return matplotlib.draw(self)  # pyright: ignore[reportReturnType]

    def _repr_png_(self: Any) -> bytes:
        from layerscope.figures import matplotlib

        return matplotlib.png(self, DPI)

    def _repr_html_(self) -> str:
        return self._html(self._repr_png_())

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        """All forms at once, drawn once."""
        del include, exclude
        png = self._repr_png_()
        return {"text/plain": repr(self), "text/html": self._html(png), "image/png": png}

    def _html(self, png: bytes) -> str:
        return html.block(html.picture(png, self.title, _width(png)), html.paragraph(self.caption))

    def _extent(self: Any) -> str:
        """Its dimensions and their lengths; of a table, rows and columns."""
        if hasattr(self.data, "dims") and not hasattr(self.data, "data_vars"):
            return ", ".join(f"{size} {dim}" for dim, size in self.data.sizes.items())
        return f"{len(self.row_names())} rows, {len(self.resolved())} columns"


class Drawn(tuple["Canvas", ...]):
    """Figures of matplotlib that a notebook shows under one another."""

    __slots__ = ()

    @classmethod
    def of(cls, figures: Iterable[Figure]) -> Drawn:
        """Draw figures."""
        return cls(figure.plot() for figure in figures)

    def _repr_html_(self) -> str:
        from layerscope.figures.matplotlib import encoded

        pngs = (encoded(canvas, DPI) for canvas in self)
        return html.block(*(html.picture(png, "figure", _width(png)) for png in pngs))


def _width(png: bytes) -> int:
    """Width on the page of a picture of `DPI`; a PNG file has its own after its first 16 bytes."""
    return round(int.from_bytes(png[16:20], "big") * PER_INCH / DPI)
