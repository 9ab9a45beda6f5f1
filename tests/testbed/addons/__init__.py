"""What stands on a node of the test bed: Envoy Gateway, KServe, and an S3 server beside the node."""
