"""Neuron types, and the conversion of a student to them."""
