"""Studies: runs, quantities, claims and their verdicts, and what recipes of all papers share."""
