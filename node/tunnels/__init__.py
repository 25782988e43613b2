"""Tunnels: a requester's connections to ports of its job, over the authenticated network.

    souk forward ----unix socket---- dial =====channel===== accept ----sandbox.connect---- the job

No port of the provider's machine is opened, and the job gets no network of its own.
"""
