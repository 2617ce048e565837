"""Choices from a seed that are the same on every machine and under every version of Python."""

import random


class Dice(random.Random):
    """Choices made with random() alone, the one method whose numbers Python guarantees over versions."""

    def below(self, n: int) -> int:
        """A whole number from 0 to n - 1."""
        return int(self.random() * n)

    def between(self, first: int, last: int) -> int:
        """A whole number from first to last, both included."""
        return first + self.below(last - first + 1)

    def pick(self, items):
        """One of the items."""
        return items[self.below(len(items))]

    def chance(self, percent: int) -> bool:
        """True in so many percent of the calls."""
        return self.random() * 100 < percent

    def word(self, words):
        """One of several words for the same: the first, which is the usual one, in 70% of the calls."""
        return words[0] if len(words) == 1 or self.chance(70) else self.pick(words[1:])

    def mixed(self, items) -> list:
        """The items in another order."""
        return [items[i] for _, i in sorted((self.random(), i) for i in range(len(items)))]


class SteadyDice(Dice):
    """Always chooses the same word for the same thing, within a caption and in both captions of a pair."""

    def __init__(self, seed: int):
        super().__init__(seed)
        self.word_seed = seed

    def word(self, words):
        """One of several words for the same, and the same one each time."""
        return Dice(f"{self.word_seed}/{words}").word(words)
