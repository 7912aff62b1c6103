"""Everything that bends: tubular convolutions and embeddings, and the geometry of their taps."""
