"""From an experiment to a finished run: module, loop, logs, prediction, and what training did.

For scripts and verbs: `fit`, `networks`, `predict`, `reconstruct`, `audit`, `teacher_maps`, `trace_tuning`, `pretrain`
and `tables`; the rest is inner.
"""
