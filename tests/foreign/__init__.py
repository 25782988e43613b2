"""A peer in JavaScript, written from docs/PROTOCOL.md alone, on our network and with our vectors.

The rooms of the peer follow the page: page codec envelope frames network chain, then what it does:
watch, rent (requester), sell (provider). `node peer.mjs` says how it is called; `./run setup`
installs what it needs.
"""
