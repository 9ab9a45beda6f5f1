"""ModelDeployments that break a rule."""

from tests.api_refusals.refusal import DIGEST, deployment

DEPLOYMENT_RULES = (
    deployment(
        "no model at all",
        {"spec.model": {}},
        "spec.model: Invalid value: a model is either trainingJob: NAME (its newest verified model) or uri "
        "and "
        "digest of a package",
    ),
    deployment(
        "a model from two places",
        {"spec.model": {"trainingJob": "flowers", "uri": "s3://models/flowers", "digest": DIGEST}},
        "spec.model: Invalid value: a model is either trainingJob: NAME (its newest verified model) or uri "
        "and "
        "digest of a package",
    ),
    deployment(
        "a package without its digest",
        {"spec.model": {"uri": "s3://models/flowers"}},
        "spec.model: Invalid value: uri and digest belong together: the digest is what proves that the "
        "package is "
        "the one you mean",
    ),
    deployment(
        "a Secret for a TrainingJob's model",
        {"spec.model.secretRef": {"name": "store"}},
        "spec.model.secretRef: Invalid value: secretRef is for uri; a trainingJob's package is read with the "
        "Secret of its own store",
    ),
    deployment(
        "fewer replicas at most than at least",
        {"spec.replicas": {"minimum": 3, "maximum": 2}},
        "spec.replicas.maximum: Invalid value: minimum cannot be more than maximum: raise maximum or lower "
        "minimum",
    ),
    deployment(
        "a target of nothing",
        {"spec.replicas": {"maximum": 2, "target": 8}},
        "spec.replicas.target: Invalid value: target is a value of scaleMetric: add scaleMetric or leave "
        "target "
        "out",
    ),
    deployment(
        "scaling without room",
        {"spec.replicas": {"scaleMetric": "cpu"}},
        "spec.replicas.scaleMetric: Invalid value: scaleMetric chooses between minimum and maximum: add "
        "maximum or "
        "leave scaleMetric out",
    ),
    deployment(
        "a node label with a very long name",
        {"spec.compute.nodeSelector": {"k" * 318: "a100"}},
        "spec.compute.nodeSelector: Invalid value: the keys of nodeSelector are names of node labels, with 1 "
        "to "
        "317 characters",
    ),
    deployment(
        "a canary without steps",
        {"spec.rollout": {"strategy": "Canary"}},
        "spec.rollout.steps: Required value: strategy Canary needs steps: write for example steps: [{weight: "
        "5, "
        "holdSeconds: 120}, {weight: 50, holdSeconds: 120}]",
    ),
    deployment(
        "steps without a canary",
        {"spec.rollout": {"steps": [{"weight": 5, "holdSeconds": 60}]}},
        "spec.rollout.steps: Invalid value: steps belong to strategy Canary: set strategy: Canary or leave "
        "steps "
        "out",
    ),
    deployment(
        "steps that do not rise",
        {
            "spec.rollout": {
                "strategy": "Canary",
                "steps": [{"weight": weight, "holdSeconds": 60} for weight in (5, 50, 50)],
            }
        },
        "spec.rollout.steps: Invalid value: the weights of steps must rise from step to step",
    ),
    deployment(
        "shadow settings without a shadow",
        {"spec.rollout": {"shadow": {"percent": 50}}},
        "spec.rollout.shadow: Invalid value: shadow belongs to strategy Shadow: set strategy: Shadow or "
        "leave "
        "shadow out",
    ),
    deployment(
        "an analysis of nothing",
        {"spec.rollout": {"analysis": [{"metric": "errorRate", "maximum": 0.01}]}},
        "spec.rollout.analysis: Invalid value: strategy Replace tries nothing out, so analysis would never "
        "be "
        "read: set strategy: Canary or Shadow, or leave analysis out",
    ),
    deployment(
        "a revision approved and rejected",
        {"spec.rollout": {"approvedRevision": "flowers-1", "rejectedRevision": "flowers-1"}},
        "spec.rollout.approvedRevision: Invalid value: a revision is either approved or rejected: remove one "
        "of the two",
    ),
    deployment(
        "a shift relative to what it is relative to",
        {
            "spec.rollout": {
                "strategy": "Shadow",
                "analysis": [{"metric": "predictionShift", "maximum": 0.1, "relativeTo": "Stable"}],
            }
        },
        "spec.rollout.analysis[0].relativeTo: Invalid value: relativeTo is for latencies: leave it out, "
        "predictionShift compares with the stable revision anyway",
    ),
    deployment(
        "an analysis without a limit",
        {"spec.rollout": {"strategy": "Shadow", "analysis": [{"metric": "errorRate"}]}},
        "spec.rollout.analysis[0]: Invalid value: an analysis has exactly one of minimum and maximum",
    ),
    deployment(
        "an analysis of a metric twice",
        {
            "spec.rollout": {
                "strategy": "Shadow",
                "analysis": [
                    {"metric": "errorRate", "maximum": 0.01},
                    {"metric": "errorRate", "maximum": 0.02},
                ],
            }
        },
        "spec.rollout.analysis: Invalid value: each metric may stand in analysis once",
    ),
    deployment(
        "a minimum for an error rate",
        {"spec.rollout": {"strategy": "Shadow", "analysis": [{"metric": "errorRate", "minimum": 0.01}]}},
        "spec.rollout.analysis[0].minimum: Invalid value: only feedbackAccuracy is better when larger: write "
        "maximum instead of minimum",
    ),
    deployment(
        "a maximum for the accuracy, without feedback",
        {
            "spec.rollout": {
                "strategy": "Shadow",
                "analysis": [{"metric": "feedbackAccuracy", "maximum": 0.9}],
            }
        },
        "spec.rollout.analysis[0].maximum: Invalid value: feedbackAccuracy is better when larger: write "
        "minimum "
        "instead of maximum",
        "spec.rollout.analysis: Invalid value: feedbackAccuracy needs feedback: set "
        "monitoring.feedback.enabled to "
        "true or leave it out",
    ),
    deployment(
        "an error rate in percent",
        {"spec.rollout": {"strategy": "Shadow", "analysis": [{"metric": "errorRate", "maximum": 5}]}},
        "spec.rollout.analysis[0]: Invalid value: only latencies can be above 1; all others are fractions: "
        "write "
        "0.01 for 1 %",
    ),
    deployment(
        "a schedule in words",
        {"spec.retraining": {"trainingJob": "flowers", "schedule": "every sunday"}},
        'spec.retraining.schedule: Invalid value: "every sunday": a schedule has the five fields of cron: '
        "write "
        'for example "0 3 * * 0" for Sundays at three',
    ),
    deployment(
        "retraining on drift without a recipe",
        {"spec.monitoring.drift.onDrift": "Retrain"},
        "spec.monitoring.drift.onDrift: Invalid value: onDrift: Retrain needs retraining: add retraining: "
        "{trainingJob: NAME} or write onDrift: Report",
    ),
    deployment(
        "retraining on drift that nobody watches",
        {
            "spec.monitoring.drift": {"onDrift": "Retrain", "enabled": False},
            "spec.retraining": {"trainingJob": "flowers"},
        },
        "spec.monitoring.drift.onDrift: Invalid value: onDrift: Retrain needs drift to be watched: set "
        "drift.enabled to true or write onDrift: Report",
    ),
    deployment(
        "retraining that nothing starts",
        {"spec.retraining": {"trainingJob": "flowers"}},
        "spec.retraining: Invalid value: nothing would ever start retraining: add a schedule or set "
        "monitoring.drift.onDrift to Retrain",
    ),
    deployment(
        "a model from the web",
        {"spec.model": {"uri": "https://models/flowers", "digest": DIGEST}},
        'spec.model.uri: Invalid value: "https://models/flowers": a store is s3://BUCKET/PREFIX, '
        "file:///PATH or "
        "pvc://CLAIM/PATH",
    ),
)
