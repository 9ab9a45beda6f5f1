"""Where things are: the node's one bridge, its addresses and its name."""

NODE = "tunesmith"
BRIDGE = "tunesmith0"
ADDRESS = "10.244.0.1"
"""The machine's on the bridge: the node's, the API server's, and of whatever else pods shall reach."""
PODS = "10.244.0.0/24"
FIRST_POD, LAST_POD = "10.244.0.10", "10.244.0.250"
SERVICES = "10.96.0.0/16"
KUBERNETES_SERVICE = "10.96.0.1"
DNS_SERVICE = "10.96.0.10"
DOMAIN = "cluster.local"
APISERVER_PORT = 6443
