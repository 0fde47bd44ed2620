"""How things show themselves: progress of long calls, and tables in notebooks."""
