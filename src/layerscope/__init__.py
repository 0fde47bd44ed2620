"""layerscope: see how every layer of a neural network learns."""
