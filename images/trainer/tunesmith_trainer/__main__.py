"""``python -m tunesmith_trainer``."""

from tunesmith_api.signals import end_on_signals

end_on_signals()

from tunesmith_trainer.command import end, main  # noqa: E402  # takes a second

end(main())
