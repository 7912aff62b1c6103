"""Volumes and trees: files in, micrometers out.

Import from the modules, all of which are public: `volume`, `swc` and `prob` for files, `tree`, `raster`, `thinning`,
`alignment` and `intensity` for what is in them; `lazy` for what stays on disk and `zarr_writing` for what is written
there by block. A module named after a format serves `volume` alone.
"""
