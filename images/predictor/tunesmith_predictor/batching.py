"""How many images a batch should hold: as few as are worth it, by what batches of each size have taken.

Where a model's time grows with its batch, as on most processors, larger batches only make everybody wait for
all of them. Where it hardly grows, as on a GPU, they are what makes it fast. Which one it is shows in the
seconds that an image takes in batches of 1, 2-3, 4-7, ... images; nobody has to say so.
"""

from __future__ import annotations

from dataclasses import dataclass, field

WORTH = 0.05
"""What an image must take less in larger batches, as a share, for them to be worth the wait."""
SMOOTHING = 0.3
"""Weight of the newest batch in the running mean of a size's seconds."""
EXPLORE_FIRST, EXPLORE_LAST = 16, 256
"""Batches after which a neighbouring size is tried again, because what else runs on the machine changes. Each
time in vain the pause doubles: a batch that is too large keeps all its requests waiting, and one in sixteen
would be the 99th percentile of everybody.
"""


@dataclass
class BatchSize:
    """Chooses the size of the next batch; used by one thread at a time.

    Attributes:
        most: images in a batch at most.
        budget_seconds: a batch of several images should not take longer than this.
    """

    most: int
    budget_seconds: float
    _seconds: dict[int, float] = field(default_factory=dict)  # of an image, by the level of its batch
    _pause: int = EXPLORE_FIRST
    _until_explored: int = EXPLORE_FIRST
    _upwards: bool = False

    @property
    def seconds_per_image(self) -> float | None:
        """In batches of the size that is worth it; None before the first batch."""
        return self._seconds.get(self._level())

    def next(self, waiting: int) -> int:
        """How many of the images that wait the next batch may hold; at least one."""
        level = self._level()
        self._until_explored -= 1
        if waiting >= 2 << level and level + 1 not in self._seconds and self._may_be_tried(level + 1):
            level += 1
        elif waiting >= 1 << level and self._until_explored <= 0:
            self._pause = min(2 * self._pause, EXPLORE_LAST)
            self._until_explored = self._pause
            self._upwards = not self._upwards
            if not self._upwards:
                level = max(0, level - 1)
            elif self._may_be_tried(level + 1):
                level += 1
        return max(1, min(waiting, 1 << level, self.most))

    def took(self, images: int, seconds: float) -> None:
        """Learn from a batch."""
        level, each = images.bit_length() - 1, seconds / images
        before, chosen = self._seconds.get(level, each), self._level()
        # What is known of another size is old; noise only ever adds to what is measured now.
        weight = SMOOTHING if level == chosen else 1.0
        self._seconds[level] = before + weight * (each - before)
        if self._level() != chosen:  # something has changed, and may change again
            self._pause = self._until_explored = EXPLORE_FIRST

    def _level(self) -> int:
        """The smallest that is worth it; 2 to its power is the size."""
        fitting = {
            level: seconds
            for level, seconds in self._seconds.items()
            if level == 0 or seconds * (1 << level) <= self.budget_seconds
        }
        enough = min(fitting.values(), default=0.0) * (1 + WORTH)
        return min((level for level, seconds in fitting.items() if seconds <= enough), default=0)

    def _may_be_tried(self, level: int) -> bool:
        """Whether a batch of this level could be within the budget: the next smaller one is."""
        below = self._seconds.get(level - 1)
        return (
            below is not None and 1 << level <= self.most and below * (1 << level - 1) <= self.budget_seconds
        )
