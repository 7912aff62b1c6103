"""From a probability volume, or a raw image, to a tree: threshold, skeleton, bridges, spurs, root."""
