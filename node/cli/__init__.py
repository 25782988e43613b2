"""The command room: `souk`. It asks a node and shows the answers; it decides nothing."""
