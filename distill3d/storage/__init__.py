"""What a run leaves on disk, and how to find and read it.

Import from the modules: `run_folder` knows the paths, `find` the runs, `checkpoint` and `curves` what is in them;
`provenance`, `rank`, `secrets` and `whole_folder` serve whoever writes, `links` whoever does not trust a folder.
"""
