"""From a probability volume, or a raw image, to a tree: threshold, skeleton, bridges, spurs, root.

Other rooms import `trace.trace` alone; each other module is one of its steps.
"""
