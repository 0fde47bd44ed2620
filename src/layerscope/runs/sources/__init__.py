"""Other people's checkpoints: one file per format.

Each format is opened as `layerscope.runs.sources.contents.Contents`, without reading a tensor and
without executing anything that a file holds.
"""

from layerscope.runs.sources.state_dicts import read_state_dict

__all__ = ["read_state_dict"]
