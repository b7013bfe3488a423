"""The practice image and the stand-in k3s installer: what the end-to-end tests boot and install."""
