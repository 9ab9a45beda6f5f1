"""A TrainingJob on a cluster: observe, decide, act."""
