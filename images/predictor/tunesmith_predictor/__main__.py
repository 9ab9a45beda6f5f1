"""``python -m tunesmith_predictor``."""

import sys

from tunesmith_api.signals import end_on_signals

end_on_signals()

from tunesmith_predictor.command import main  # noqa: E402  # takes a moment, and what it imports seconds

sys.exit(main())
