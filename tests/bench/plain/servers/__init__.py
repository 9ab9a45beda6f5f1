"""Servers of the same networks as the documentation of other frameworks shows them."""
