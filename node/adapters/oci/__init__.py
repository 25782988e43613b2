"""The sandbox over an OCI runtime: strangers' code in a container of our own making."""
