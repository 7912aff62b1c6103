"""From an experiment to a finished run: module, loop, logs, prediction, and what training did."""
