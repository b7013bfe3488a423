"""Images nobody has tampered with: fetched, verified, pinned and kept."""
