"""Objects of the wrong shape, and metadata that no Kubernetes object may have."""

from tests.api_refusals.refusal import REMOVED, deployment, job

_DNS = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must"
)
_DNS += " start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '"
_DNS += "[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
_JOB_NAME = "metadata.name names pods and labels too: use at most 63 lower-case letters, digits and dashes"
_DEPLOYMENT_NAME = (
    "metadata.name names revisions and their Services too: use at most 40 lower-case letters, digits and "
    "dashes, beginning with a letter"
)
STRUCTURE = (
    job(
        "a number below its minimum",
        {"spec.search.numTrials": 0},
        "spec.search.numTrials: Invalid value: 0: spec.search.numTrials in body should be greater than or "
        "equal "
        "to 1",
    ),
    job(
        "a number above its maximum",
        {"spec.search.numTrials": 10_001},
        "spec.search.numTrials: Invalid value: 10001: spec.search.numTrials in body should be less than or "
        "equal "
        "to 10000",
    ),
    job(
        "a large number beyond a large limit, in Go's way of writing floats",
        {"spec.verification.gates": [{"metric": "latencyP95Milliseconds", "maximum": 1.25e10}]},
        "spec.verification.gates[0].maximum: Invalid value: 1.25e+10: spec.verification.gates[0].maximum in "
        "body "
        "should be less than or equal to 1e+09",
    ),
    job(
        "a small fraction below zero",
        {"spec.transfer.warmupFraction": -1e-7},
        "spec.transfer.warmupFraction: Invalid value: -1e-07: spec.transfer.warmupFraction in body should be "
        "greater than or equal to 0",
    ),
    job(
        "a whole number for a fraction whose limit is not whole",
        {"spec.transfer.labelSmoothing": 1},
        "spec.transfer.labelSmoothing: Invalid value: 1: spec.transfer.labelSmoothing in body should be less "
        "than "
        "or equal to 0",
    ),
    job(
        "a number at an excluded limit",
        {"spec.transfer.layerDecay": 0.0},
        "spec.transfer.layerDecay: Invalid value: 0: spec.transfer.layerDecay in body should be greater than "
        "0",
    ),
    job(
        "a text for a number",
        {"spec.search.numTrials": "32"},
        'spec.search.numTrials: Invalid value: "string": spec.search.numTrials in body must be of type '
        "integer: "
        '"string"',
    ),
    job(
        "a fraction for a whole number",
        {"spec.search.numTrials": 2.5},
        'spec.search.numTrials: Invalid value: "float64": spec.search.numTrials in body must be of type '
        "int64: "
        '"float64"',
    ),
    job(
        "true for a number",
        {"spec.transfer.warmupFraction": True},
        'spec.transfer.warmupFraction: Invalid value: "": spec.transfer.warmupFraction in body must be of '
        "type "
        'double: ""',
    ),
    job(
        "an unquoted Off, which YAML reads as false",
        {"spec.dataset.checks.labelNoise": False},
        'spec.dataset.checks.labelNoise: Invalid value: "boolean": spec.dataset.checks.labelNoise in body '
        "must be "
        'of type string: "boolean"',
        'spec.dataset.checks.labelNoise: Unsupported value: false: supported values: "Report", "Drop", '
        '"Ignore"',
    ),
    job(
        "a list for an object",
        {"spec.dataset": []},
        'spec.dataset: Invalid value: "array": spec.dataset in body must be of type object: "array"',
    ),
    job(
        "a null in a list",
        {"spec.backbones": [None]},
        'spec.backbones[0]: Invalid value: "null": spec.backbones[0] in body must be of type object: "null"',
    ),
    job(
        "a word that is not among those supported",
        {"spec.search.algorithm.name": "Hyperband"},
        'spec.search.algorithm.name: Unsupported value: "Hyperband": supported values: "Random", "Grid", '
        '"TPE", '
        '"BOHB", "PBT"',
    ),
    job("no dataset", {"spec.dataset": REMOVED}, "spec.dataset: Required value"),
    job("no spec", {"spec": REMOVED}, "spec: Required value"),
    job("no dataset.uri", {"spec.dataset.uri": REMOVED}, "spec.dataset.uri: Required value"),
    job(
        "an unknown field, alone as the server says it",
        {"spec.dataset.url": "s3://datasets"},
        'unknown field "spec.dataset.url"',
    ),
    job(
        "a namespace in a reference",
        {"spec.store.secretRef": {"name": "store", "namespace": "other"}},
        'unknown field "spec.store.secretRef.namespace"',
    ),
    job("an unknown field beside spec", {"data": {}}, 'unknown field "data"'),
    job("an unknown field in metadata", {"metadata.label": {}}, 'unknown field "metadata.label"'),
    job(
        "a text that is too long",
        {"spec.dataset.uri": "s3://" + "x" * 1_020},
        "spec.dataset.uri: Too long: may not be more than 1024 bytes",
    ),
    job(
        "an empty text",
        {"spec.dataset.sliceColumns": [""]},
        'spec.dataset.sliceColumns[0]: Invalid value: "": spec.dataset.sliceColumns[0] in body should be at '
        "least "
        "1 chars long",
    ),
    job(
        "a text that does not match its pattern",
        {"spec.backbones": [{"name": "res net"}]},
        'spec.backbones[0].name: Invalid value: "res net": spec.backbones[0].name in body should match '
        "'^[A-Za-z0-9_]+$'",
    ),
    job(
        "a line break at the end of a name",
        {"spec.backbones": [{"name": "resnet50\n"}]},
        'spec.backbones[0].name: Invalid value: "resnet50\\n": spec.backbones[0].name in body should match '
        "'^[A-Za-z0-9_]+$'",
    ),
    job(
        "an empty list where one is needed",
        {"spec.backbones": []},
        "spec.backbones: Invalid value: 0: spec.backbones in body should have at least 1 items",
    ),
    job(
        "a list that is too long",
        {"spec.backbones": [{"name": f"resnet{index}"} for index in range(9)]},
        "spec.backbones: Too many: 9: must have at most 8 items",
    ),
    job(
        "a map that is too large",
        {"spec.compute.nodeSelector": {f"key{index}": "x" for index in range(17)}},
        "spec.compute.nodeSelector: Too many: 17: must have at most 16 items",
    ),
    job(
        "a number in a map of texts",
        {"spec.compute.nodeSelector": {"zone": 1}},
        'spec.compute.nodeSelector.zone: Invalid value: "integer": spec.compute.nodeSelector.zone in body '
        "must be "
        'of type string: "integer"',
    ),
    job(
        "a quantity with an unknown unit",
        {"spec.compute.memory": "16GB"},
        'spec.compute.memory: Invalid value: "16GB": spec.compute.memory in body should match '
        "'^[0-9]+(\\.[0-9]+)?(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$'",
    ),
    job(
        "a fraction for a quantity",
        {"spec.compute.cpu": 0.5},
        'spec.compute.cpu: Invalid value: "number": spec.compute.cpu in body must be of type integer,string: '
        '"number"',
        'spec.compute.cpu: Invalid value: "number": spec.compute.cpu in body must be of type integer: '
        '"number"',
    ),
    job(
        "a negative quantity",
        {"spec.compute.cpu": -1},
        "spec.compute.cpu: Invalid value: -1: spec.compute.cpu in body should be greater than or equal to 0",
    ),
    job(
        "several things at once",
        {"spec.search": {"numTrials": 0, "parallelTrials": 0}, "spec.store.uri": "https://models"},
        "spec.search.numTrials: Invalid value: 0: spec.search.numTrials in body should be greater than or "
        "equal "
        "to 1",
        "spec.search.parallelTrials: Invalid value: 0: spec.search.parallelTrials in body should be greater "
        "than "
        "or equal to 1",
        'spec.store.uri: Invalid value: "https://models": a store is s3://BUCKET/PREFIX, file:///PATH or '
        "pvc://CLAIM/PATH",
    ),
)

METADATA = (
    job(
        "a name with capitals",
        {"metadata.name": "Flowers"},
        f'metadata.name: Invalid value: "Flowers": {_DNS}',
        f"metadata.name: Invalid value: {_JOB_NAME}",
    ),
    job(
        "annotations of more than 256 KiB",
        {"metadata.annotations": {"note": "x" * 262_144}},
        "metadata.annotations: Too long: may not be more than 262144 bytes",
    ),
    job(
        "a finalizer that is no qualified name",
        {"metadata.finalizers": ["foo bar"]},
        'metadata.finalizers: Invalid value: "foo bar": name part must consist of alphanumeric characters, '
        "'-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or "
        "'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
    ),
    job(
        "finalizers that are no list",
        {"metadata.finalizers": "foo"},
        "json: cannot unmarshal string into Go struct field ObjectMeta.finalizers of type []string",
    ),
    job(
        "an owner that is not named",
        {"metadata.ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "uid": "1"}]},
        'metadata.ownerReferences.name: Invalid value: "": must not be empty',
    ),
    job("a name with dots", {"metadata.name": "a.b"}, f"metadata.name: Invalid value: {_JOB_NAME}"),
    job("a name of 64 letters", {"metadata.name": "a" * 64}, f"metadata.name: Invalid value: {_JOB_NAME}"),
    deployment(
        "a deployment's name of 41 letters",
        {"metadata.name": "a" * 41},
        f"metadata.name: Invalid value: {_DEPLOYMENT_NAME}",
    ),
    deployment(
        "a deployment's name that begins with a digit",
        {"metadata.name": "1st"},
        f"metadata.name: Invalid value: {_DEPLOYMENT_NAME}",
    ),
    job(
        "no name",
        {"metadata.name": REMOVED},
        "metadata.name: Required value: name or generateName is required",
    ),
    job(
        "a number as a label",
        {"metadata.labels": {"team": 1}},
        "json: cannot unmarshal number into Go struct field ObjectMeta.labels of type string",
    ),
    job(
        "a label with a space",
        {"metadata.labels": {"team": "a b"}},
        'metadata.labels: Invalid value: "a b": a valid label must be an empty string or consist of '
        "alphanumeric "
        "characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue', "
        " or "
        "'my_value',  or '12345', regex used for validation is "
        "'(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')",
    ),
)
