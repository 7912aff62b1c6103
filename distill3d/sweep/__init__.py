"""Sweeps: reads W&B's sweep files and runs them on this machine without a server; W&B runs the same files itself."""
