"""The search stage: features once, heads in bulk, a few fine-tunings, one choice.

1. Each backbone embeds the training and validation images once (``probes``).
2. Heads are trained in batches and judged by cross-validation on the features (``head_trials``).
3. Suspected wrong labels come from the best head's held-out predictions (``label_noise``).
4. Fine-tunings start from a softly trained head and are judged on a held-out part (``fine_tuning``); early
   stopping ends the worse ones.
5. A fine-tuned network is kept only when it beats its own linear probe beyond noise (``selection``); then its
   hyper-parameters are trained once more on all these images.

The test split is not read here.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from tunesmith_trainer.search import engine
from tunesmith_trainer.search.backbones import ImageClassifier
from tunesmith_trainer.search.candidate import Candidate, CandidateFacts, scale_head, set_head
from tunesmith_trainer.search.context import Budget, SearchContext
from tunesmith_trainer.search.fine_tuning import FineTunings
from tunesmith_trainer.search.judgement import Judgement
from tunesmith_trainer.search.ledger import Ledger, Trial, trial_number
from tunesmith_trainer.search.machines import ray_cluster
from tunesmith_trainer.search.probes import Probes
from tunesmith_trainer.search.result import SearchResult
from tunesmith_trainer.search.selection import Choice, choose
from tunesmith_trainer.verify.calibration import fit_temperature

__all__ = ["SearchContext", "SearchResult", "run_search"]

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]


def run_search(context: SearchContext) -> SearchResult:
    """Run or continue the search.

    Raises:
        SearchFailed: no trial gave a usable model.
        StoreError: the store stayed away or is full; everything finished is kept.
    """
    search = _Search(context)
    with context.timed("features"):
        search.probes.embed()
    workers = context.spec.compute.workers
    ray = (
        ray_cluster(workers + 1, context.events.note)
        if workers
        else engine.local_ray(context.device, engine.trial_slots(context.spec))
    )
    with ray as context.machines:
        with context.timed("heads"):
            search.probes.run_heads()
        with context.timed("finetune"):
            candidate = search.fine_tune_and_choose()
    search.tunings.clear_shelf()
    trials = search.ledger.trials
    proposed = sum(trial_number(row.id) is not None for row in trials)
    ended = search.budget.ended or f"The search ended because all of its {proposed} trials were done."
    return SearchResult(candidate, trials, search.probes.suspects, dict(context.timings), ended)


class _Search:
    """The parts of one search."""

    def __init__(self, context: SearchContext) -> None:
        self.context = context
        self.ledger = Ledger(context.store, f"{context.prefix}ledger/")
        self.budget = Budget(context, self.ledger)
        self.probes = Probes(context, self.ledger, self.budget)
        self.tunings = FineTunings(context, self.ledger, self.budget, self.probes)

    def fine_tune_and_choose(self) -> Candidate:
        """Fine-tune, choose, and build the model that leaves the search."""
        choice, held_out, part = (
            self.tunings.run() if self.budget.fine_tunings else (_no_fine_tuning(), None, None)
        )
        if choice.contender is None:
            return self._probe_candidate(choice)
        row = self.ledger.get(choice.contender.trial_id)
        assert row is not None
        assert held_out is not None
        assert part is not None
        temperature = fit_temperature(held_out, self.probes.labels[part], self.probes.weights[part])
        model = self.tunings.refit(row, choice.contender.share) if self.probes.folds else None
        if model is None:
            model = self.tunings.as_judged(row, choice)
        return self._candidate(model, row, choice, float(temperature))

    def _probe_candidate(self, choice: Choice) -> Candidate:
        best = self.probes.best_head()
        everything = np.arange(len(self.probes.rows))
        probe = self.probes.train_probe(best, everything, self.probes.head_folds)
        judged = np.flatnonzero(self.probes.head_folds >= 0)
        temperature = float(
            fit_temperature(
                probe.held_out_logits[judged], self.probes.labels[judged], self.probes.weights[judged]
            )
        )
        model = ImageClassifier(self.probes.embedded[best.backbone].pretrained.backbone, self.probes.classes)
        set_head(model, probe.head)
        return self._candidate(model, best, choice, temperature)

    def _candidate(self, model: ImageClassifier, row: Trial, choice: Choice, temperature: float) -> Candidate:
        scale_head(model.cpu(), temperature)
        source = self.probes.embedded[row.backbone]
        probe = self.probes.best_head(row.backbone)
        facts = CandidateFacts(
            backbone=row.backbone,
            weights=source.weights_name,
            weights_digest=source.pretrained.weights_digest,
            strategy=row.strategy,
            trial_id=row.id,
            image_size=source.preprocess.image_size,
            mean=source.preprocess.mean,
            std=source.preprocess.std,
            num_classes=self.probes.classes,
            temperature=temperature,
            selection=choice.sentence,
            probe_accuracy=probe.metrics["accuracy"],
            probe_loss=probe.metrics["negativeLogLikelihood"],
        )
        return Candidate(model.to(memory_format=torch.contiguous_format).eval(), facts)


def _no_fine_tuning() -> Choice:
    return choose(Judgement(np.empty(0, np.float32), np.empty(0, np.bool_)), [])
