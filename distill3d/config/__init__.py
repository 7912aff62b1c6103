"""An experiment file, and what it becomes."""
