"""The pure core of Layer 1: everything that decides, and nothing that needs Pulumi."""
