"""The search: features, heads, fine-tuning and the choice among them, on Ray Tune and Optuna.

Ray's settings are made here because Ray reads them when it is imported, and every part of the search imports
this file first.
"""

import os
import secrets

# Ray reads these when it is imported. Nothing here may leave the machine or fill the terminal, and whoever
# else is on this machine cannot speak to this Ray without its token.
os.environ.setdefault("RAY_AUTH_MODE", "token")
os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# Despite its name, 0 makes Ray bind every port to the loopback interface alone.
os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
os.environ.setdefault("RAY_DISABLE_DOCKER_CPU_WARNING", "1")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "3600")
os.environ.setdefault("TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S", "0")
# Threads of torch that wait for each other spin for milliseconds before they sleep. A thousand turns are as
# fast on an idle machine, and training heads took 4.5 s instead of 10.7 s on a busy one.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
