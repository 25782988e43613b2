"""Guest: our own suite on another kernel: pure control groups version 2, plain or under systemd.

A machine that QEMU emulates (no KVM), with Debian's cloud kernel and this machine's own userland,
which it is shown read-only. Slow, and exact: what runs there is what runs here.
"""
