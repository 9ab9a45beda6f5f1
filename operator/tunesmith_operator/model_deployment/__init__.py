"""ModelDeployments: observe, decide, act."""
