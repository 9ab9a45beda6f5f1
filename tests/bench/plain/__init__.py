"""The same work done as the documentation of other projects teaches it, for comparison."""
