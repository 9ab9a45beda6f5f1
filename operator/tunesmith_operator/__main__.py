"""``python -m tunesmith_operator``."""

import sys

from tunesmith_api.signals import end_on_signals

end_on_signals()

from tunesmith_operator.main import main  # noqa: E402  # takes a second

sys.exit(main())
