"""The operator: watches TrainingJobs and makes Kubernetes run them.

observe (what is) -> decide (pure: what should be done) -> act (do it, then write the status once). Kopf only
brings the news; see README.md.
"""
