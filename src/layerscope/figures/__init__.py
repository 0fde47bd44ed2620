"""Figures: what to draw (`figure`) and how (`matplotlib` for papers, `plotly` for the page)."""
