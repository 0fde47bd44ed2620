"""Other people's checkpoints: one file per format."""

from layerscope.runs.sources.state_dicts import read_state_dict

__all__ = ["read_state_dict"]
