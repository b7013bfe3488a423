"""The host in which the walls are proven: a Debian with libvirt, built and booted under emulation."""
