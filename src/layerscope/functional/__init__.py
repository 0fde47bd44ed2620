"""Pure tensor mathematics: torch only, no modules, no files, one formula in one place."""
