"""One TrainingJob from its spec to a published package: prepare, search, verify, publish, in this order.

Each finished stage leaves a marker in the store, under ``jobs/{name}/{run key}/``. The run key stands for the
spec and the dataset's listing, so the same command goes on where it stopped, and another spec or other data
never meet its files.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter

from tunesmith_api.reasons import Reason, TrainingJobCondition, TunesmithError, WeightsMissing
from tunesmith_api.status import DatasetStatus, FindingCount, SearchStatus, TrainingJobStatus, TrialStatus
from tunesmith_api.training_job import TrainingJob, TrainingJobSpec
from tunesmith_package.lease import acquire_lease
from tunesmith_package.store import Store, open_store
from tunesmith_trainer.credentials import DATASET, STORE, credentials_for, weights_of
from tunesmith_trainer.devices import Device, find_device
from tunesmith_trainer.events import Events
from tunesmith_trainer.gpu_time import GpuTime
from tunesmith_trainer.prepare.dataset import Dataset, DatasetUnusable
from tunesmith_trainer.prepare.prepare import prepare_dataset
from tunesmith_trainer.prepare.source import Listing
from tunesmith_trainer.prepare.sources import list_source
from tunesmith_trainer.scratch import open_scratch
from tunesmith_trainer.search.backbones import Pretrained, load_backbone
from tunesmith_trainer.search.candidate import CandidateFacts, restore_candidate, store_candidate
from tunesmith_trainer.search.label_noise import Suspect
from tunesmith_trainer.search.ledger import Ledger, Trial, trial_number
from tunesmith_trainer.search.machines import require_cluster
from tunesmith_trainer.search.result import SearchResult
from tunesmith_trainer.search.space import strategies_of
from tunesmith_trainer.search.warm_start import earlier_trials
from tunesmith_trainer.status import StatusBoard
from tunesmith_trainer.workspace import Workspace

TOP_TRIALS = 10
RUN_KEY_FORMAT = 4
"""Raise it when the same spec and data would give another model."""

_FACTS = TypeAdapter(CandidateFacts)
_SUSPECTS = TypeAdapter(tuple[Suspect, ...])


def run_key(job: TrainingJob, listing: Listing) -> str:
    """Name of a run: everything that decides its result, hashed; 16 hexadecimal digits."""
    spec = job.spec.model_dump(mode="json", by_alias=True)
    parts = {
        name: spec[name]
        for name in ("dataset", "backbones", "transfer", "objectives", "search", "verification")
    }
    text = json.dumps([RUN_KEY_FORMAT, parts, listing.fingerprint], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class JobRun:
    """A TrainingJob on this machine.

    Args:
        job: validated.
        cache_dir: for what can be made again.
        device: ``auto``, ``cpu`` or ``cuda``.
        events: told everything.
        patience_seconds: how long a store may stay away.
        on_status: given the status after each change.
    """

    def __init__(
        self,
        job: TrainingJob,
        cache_dir: Path,
        device: str,
        events: Events,
        patience_seconds: float = 300,
        on_status: Callable[[TrainingJobStatus], None] = lambda status: None,
    ) -> None:
        """Open the store; nothing is read or written yet."""
        self.job, self.spec, self.cache_dir, self.events = job, job.spec, cache_dir, events
        self.patience = patience_seconds
        self.board = StatusBoard(events, lambda: datetime.now(UTC), job.metadata.generation, on_status)
        self.device: Device = find_device(device, self.spec.transfer.precision)
        torch.set_num_threads(self.device.threads)
        self.store: Store = self._open(self.spec.store.uri, STORE)
        if self.spec.compute.workers:
            require_cluster()

    def _open(self, uri: str, purpose: str) -> Store:
        return open_store(
            uri,
            credentials=credentials_for(purpose),
            patience_seconds=self.patience,
            on_wait=self.events.note,
        )

    def run(self) -> None:
        """Run or continue the job to its end.

        Raises:
            TunesmithError: with the reason, what is wrong and what to do; everything finished is kept.
        """
        self.cache_dir.mkdir(parents=True, exist_ok=True)
        self.board.condition(
            TrainingJobCondition.ADMITTED, "True", Reason.RUNNING, f"Running on {platform.node()}."
        )
        listing = list_source(
            self.spec,
            credentials_for(DATASET),
            patience_seconds=self.patience,
            on_wait=self.events.note,
        )
        key = run_key(self.job, listing)
        prefix = f"jobs/{self.job.name}/{key}/"
        owner = f"process {os.getpid()} on {platform.node()}"
        with (
            acquire_lease(self.store, f"{prefix}lease", owner) as lease,
            open_scratch(self.cache_dir) as scratch,
        ):
            self.workspace = Workspace(self.store, prefix, self.cache_dir, lease.ensure_held)
            self.scratch, self.key, self.prefix = scratch, key, prefix
            with self._counting():
                dataset = self._prepare(listing)
                searched = self._search(dataset)
                directory = self.scratch / "package"
                directory.mkdir()
                # Imported now: what verifies and publishes would have the search wait for a second.
                from tunesmith_trainer.release import Release

                release = Release(self.job, key, self.workspace, self.device, self.events, self.board)
                release.run(dataset, searched, directory)
        self.board.condition(
            TrainingJobCondition.SUCCEEDED, "True", Reason.COMPLETED, "The verified model is in the store."
        )
        self.board.finish("Succeeded")

    def _counting(self) -> GpuTime:
        """Count how often this run was started and how long it holds GPUs, over all its processes."""
        with self.workspace.reading("starts"):
            marker = self.workspace.read_marker("starts") or {"starts": 0}
            starts, used = int(marker["starts"]), float(marker.get("gpuSeconds", 0))

        def keep(seconds: float) -> None:
            self.board.update(gpu_seconds=seconds)
            self.workspace.write_marker("starts", {"starts": starts + 1, "gpuSeconds": seconds})

        self.workspace.write_marker("starts", {"starts": starts + 1, "gpuSeconds": used})
        self.board.update(restarts=starts, gpu_seconds=used or None)
        return GpuTime(self.device.gpus, used, keep)

    # Prepare

    def _prepare(self, listing: Listing) -> Dataset:
        self.board.enter("Preparing")
        finished = self.workspace.read_marker("prepare") is not None
        with self.events.stage("prepare", reused=finished):
            try:
                dataset = prepare_dataset(
                    self.spec,
                    self.workspace,
                    self.events,
                    credentials_for(DATASET),
                    patience_seconds=self.patience,
                    listing=listing,
                )
            except DatasetUnusable as error:
                self.board.update(dataset=DatasetStatus.model_validate(error.status))
                raise
        self.board.update(dataset=DatasetStatus.model_validate(dataset.status()))
        self.board.condition(
            TrainingJobCondition.DATA_READY,
            "True",
            Reason.COMPLETED,
            f"{sum(dataset.counts().values())} images in {len(dataset.classes)} classes are ready.",
        )
        return dataset

    # Search

    def _search(self, dataset: Dataset) -> SearchResult:
        self.board.enter("Searching")
        marker = self.workspace.read_marker("search")
        if marker is None:
            with self.events.stage("search"):
                searched = self._run_search(dataset)
        else:
            self.events.reused("search")
            with self.workspace.reading("search"):
                facts = _FACTS.validate_python(marker["facts"])
                suspects = _SUSPECTS.validate_python(marker["suspects"])
                timings, ended = dict(marker["timings"]), str(marker["ended"])
            candidate = restore_candidate(self.store, f"{self.prefix}candidate.safetensors", facts)
            trials = Ledger(self.store, f"{self.prefix}ledger/").trials
            searched = SearchResult(candidate, trials, suspects, timings, ended)
        self._tell_suspects(dataset, len(searched.suspects))
        chosen = searched.candidate.facts
        self.board.update(search=search_status(searched.trials, self.spec, chosen.trial_id))
        self.board.condition(
            TrainingJobCondition.SEARCH_COMPLETE,
            "True",
            Reason.COMPLETED,
            f"{searched.ended} {chosen.selection}",
        )
        return searched

    def _tell_suspects(self, dataset: Dataset, count: int) -> None:
        """Count the suspected labels among the findings on the dataset, as soon as the search knows them."""
        policy = self.spec.dataset.checks.label_noise
        if not count:
            return
        status = DatasetStatus.model_validate(dataset.status())
        found = FindingCount(check="label-noise", count=count, policy=policy)
        self.board.update(dataset=status.model_copy(update={"findings": (*status.findings, found)}))
        done = "nothing learns from these images" if policy == "Drop" else "the report shows them"
        labels = f"{count:,} label{' is' if count == 1 else 's are'}"
        sentence = f"{labels} probably wrong; {done}."
        self.events.emit("finding", check="label-noise", count=count, policy=policy, sentence=sentence)

    def _run_search(self, dataset: Dataset) -> SearchResult:
        # Ray and Optuna take seconds to import; a run whose search is finished does without.
        from tunesmith_trainer.search.search import SearchContext, run_search

        earlier, told = earlier_trials(self.spec, self.store, self.prefix)
        if told:
            self.events.note(told)
        trials: dict[str, Trial] = {}

        def on_trial(trial: Trial) -> None:
            self.workspace.require_lease()
            trials[trial.id] = trial
            self.board.update(search=search_status(tuple(trials.values()), self.spec))

        trials.update({one.id: one for one in Ledger(self.store, f"{self.prefix}ledger/").trials})
        searched = run_search(
            SearchContext(
                spec=self.spec,
                dataset=dataset.without_test(),
                store=self.store,
                prefix=self.prefix,
                cache_dir=self.cache_dir,
                scratch=self.scratch,
                device=self.device,
                events=self.events,
                on_trial=on_trial,
                load_backbone=self.load_backbone,
                earlier=earlier,
            )
        )
        store_candidate(searched.candidate, self.store, f"{self.prefix}candidate.safetensors")
        self.workspace.write_marker(
            "search",
            {
                "facts": asdict(searched.candidate.facts),
                "suspects": [asdict(one) for one in searched.suspects],
                "timings": dict(searched.timings),
                "ended": searched.ended,
            },
        )
        return searched

    def load_backbone(self, name: str) -> Pretrained:
        """Build a backbone of the spec with the weights that it names."""
        index, backbone = next(
            (index, one) for index, one in enumerate(self.spec.backbones) if one.name == name
        )
        size = self.spec.transfer.image_size
        if backbone.weights_uri is None:
            return load_backbone(name, size, weights=backbone.weights_name, weights_file=None)
        folder, _, file = backbone.weights_uri.rpartition("/")
        target = self.scratch / f"{name}.safetensors"
        try:
            self._open(folder, weights_of(index)).download(file, target)
        except TunesmithError as error:
            if error.reason is not Reason.OBJECT_MISSING:
                raise
            raise WeightsMissing(
                f"There are no weights at {backbone.weights_uri}.", "Check backbones[].weightsUri."
            ) from error
        return load_backbone(name, size, weights=None, weights_file=target)


def search_status(trials: Sequence[Trial], spec: TrainingJobSpec, chosen: str = "") -> SearchStatus:
    """The search in short, for the status: counts and the best ten trials.

    Heads and fine-tunings are judged on different images, so trials are ordered within their strategy.
    The chosen trial is the best; before the choice it is the best of the first strategy that the model may
    have and that has results.

    Args:
        trials: of the ledger; the last fine-tuning, which is no trial of its own, is left out.
        spec: of the job.
        chosen: the trial whose hyper-parameters the model has, once there is a choice.
    """
    proposed = [one for one in trials if trial_number(one.id) is not None]
    states = [trial.state for trial in proposed]
    metric = spec.objectives[0].metric
    leading = next((one.strategy for one in proposed if one.id == chosen), None)
    allowed = strategies_of(spec)

    def place(trial: Trial) -> tuple[bool, bool, bool, str, float, str]:
        """Chosen first, then its strategy, then those that the model may have, each by its score."""
        score = math.inf if trial.score is None else trial.score
        other = trial.strategy != (leading or "LinearProbe")
        return trial.id != chosen, trial.strategy not in allowed, other, trial.strategy, score, trial.id

    scored = sorted((one for one in proposed if one.score is not None), key=place)
    top = tuple(_trial_status(one, metric) for one in scored[:TOP_TRIALS])
    return SearchStatus(
        trials=len(proposed),
        running=states.count("Running"),
        succeeded=states.count("Succeeded"),
        stopped=states.count("Stopped"),
        failed=states.count("Failed"),
        best=top[0] if top else None,
        top=top,
    )


def _trial_status(trial: Trial, metric: str) -> TrialStatus:
    value = trial.metrics.get(metric)
    values: dict[str, Any] = {
        "id": trial.id,
        "strategy": trial.strategy,
        "backbone": trial.backbone,
        "parameters": {
            name: f"{value:.4g}" if isinstance(value, float) else str(value)
            for name, value in trial.parameters.items()
        },
        "metrics": {name: round(value, 6) for name, value in trial.metrics.items()},
        "score": "" if value is None else f"{value:.4f}",
    }
    return TrialStatus.model_validate(values)
