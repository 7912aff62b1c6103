"""Neuron types, and the conversion of a student to them; importing `conversion` registers the types.

Other rooms import `conversion` alone; a type of one's own builds on `base`.
"""
