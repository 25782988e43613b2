"""Routes: one file a desk; each translates requests and answers, and decides nothing."""
