"""What a run leaves on disk, and how to find and read it."""
