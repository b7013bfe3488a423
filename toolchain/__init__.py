"""Makes a fresh machine ready: programs that are built from Go modules, Python packages, libvirtd."""
