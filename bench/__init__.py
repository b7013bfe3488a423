"""Measurements of Layer 1 by itself."""
