"""Simulation: the market's schedulers replayed over a trace. Pure: text in, figures out."""
