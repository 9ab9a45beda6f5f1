"""``python -m tunesmith_operator``."""

import sys

from tunesmith_operator.main import main

sys.exit(main())
