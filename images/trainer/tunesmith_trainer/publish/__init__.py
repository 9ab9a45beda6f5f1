"""The last stage: the verified candidate becomes a model package with its report and its card."""
