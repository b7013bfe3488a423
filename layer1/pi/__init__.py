"""Raspberry Pi boards: their images, what goes into them, and how they get onto a card."""
