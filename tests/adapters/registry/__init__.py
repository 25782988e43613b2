"""Images from registries: a real client against a real server on the loopback."""
