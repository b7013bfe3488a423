"""Talos Linux: its images, its machine config, its seed."""
