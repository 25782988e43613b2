"""The web view in a real browser, against real nodes, a real chain and a wallet of its own."""
