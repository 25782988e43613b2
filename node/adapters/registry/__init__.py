"""Registry: images from OCI registries over HTTPS."""
