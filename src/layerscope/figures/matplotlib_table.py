"""Tables, drawn for papers: text between three rules, numbers right-aligned."""

from __future__ import annotations

from matplotlib.axes import Axes

from layerscope.figures.figure import Table

INK, QUIET = "#33383f", "#6b7785"


def draw_table(table: Table, ax: Axes) -> None:
    """Fill the axes with the table; columns are as wide as their longest text."""
    columns, names, rows = table.resolved(), table.row_names(), table.cells()
    headers = [f"{c.header} ({c.unit})" if c.unit else c.header for c in columns]
    texts = [[f"{cell.text} {cell.margin}".strip() for cell in row] for row in rows]
    widths = [2 + max(map(len, [table.rows, *names]))]
    for i, header in enumerate(headers):
        widths.append(3 + max(len(header), *(len(row[i]) for row in texts)))
    total, height = sum(widths), len(rows) + 1
    rights = [sum(widths[: i + 1]) / total for i in range(len(widths))]
    size = min(8.0, 8.0 * 92 / total)
    ax.set_axis_off()
    ax.set(xlim=(0, 1), ylim=(height + 0.1, -0.1))
    for y, width in ((0.0, 0.8), (1.0, 0.4), (float(height), 0.8)):
        ax.axhline(y, color=INK, lw=width)
    ax.text(0, 0.5, table.rows, va="center", fontsize=size, color=QUIET)
    for right, header in zip(rights[1:], headers, strict=True):
        ax.text(right, 0.5, header, ha="right", va="center", fontsize=size, color=QUIET)
    for y, (name, row) in enumerate(zip(names, texts, strict=True), start=1):
        ax.text(0, y + 0.5, name, va="center", fontsize=size, color=INK)
        for right, text in zip(rights[1:], row, strict=True):
            ax.text(right, y + 0.5, text, ha="right", va="center", fontsize=size, color=INK)
    ax.set_title(table.title)
