"""A practice board: an arm64 guest in the shape of a Raspberry Pi with Raspberry Pi OS Lite."""
