"""The report: one self-contained interactive page (`page.write`)."""
