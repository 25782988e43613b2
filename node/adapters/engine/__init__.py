"""Jobs in containers of Docker or Podman, asked over its unix socket."""
