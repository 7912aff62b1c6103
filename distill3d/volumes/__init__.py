"""Volumes and trees: files in, micrometers out.

Import from the modules, all of which are public: `volume`, `swc` and `prob` for files, `tree`, `raster`, `thinning`,
`alignment` and `intensity` for what is in them; `tiff` and `vaa3d` serve `volume` alone.
"""
