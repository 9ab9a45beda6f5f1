"""One TrainingJob from its spec to a published package: prepare, search, verify, publish, in this order.

Each finished stage leaves a marker in the store, under ``jobs/{name}/{run key}/``. The run key stands for the
spec and the dataset's listing, so the same command goes on where it stopped, and another spec or other data
never meet its files.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter

from tunesmith_api.reasons import Reason, SpecInvalid, TrainingJobCondition, TunesmithError, WeightsMissing
from tunesmith_api.status import DatasetStatus, ModelStatus, SearchStatus, TrialStatus
from tunesmith_api.training_job import TrainingJob
from tunesmith_package.inference import Predictor
from tunesmith_package.lease import acquire_lease
from tunesmith_package.manifest import PackageHeader
from tunesmith_package.package import publish_package
from tunesmith_package.store import Store, open_store
from tunesmith_trainer.devices import Device, find_device
from tunesmith_trainer.events import Events
from tunesmith_trainer.prepare.dataset import Dataset
from tunesmith_trainer.prepare.prepare import prepare_dataset
from tunesmith_trainer.prepare.source import Listing
from tunesmith_trainer.prepare.sources import list_source
from tunesmith_trainer.publish.card import render_card
from tunesmith_trainer.publish.export import export_model
from tunesmith_trainer.publish.reference import write_golden, write_reference
from tunesmith_trainer.publish.report.render import render_report
from tunesmith_trainer.publish.report_data import Run, created_by, report_data
from tunesmith_trainer.scratch import open_scratch
from tunesmith_trainer.search.backbones import Pretrained, load_backbone
from tunesmith_trainer.search.candidate import Candidate, CandidateFacts, restore_candidate, store_candidate
from tunesmith_trainer.search.label_noise import Suspect
from tunesmith_trainer.search.ledger import Ledger, Trial
from tunesmith_trainer.status import StatusBoard
from tunesmith_trainer.verify.champion import Champion, find_champion
from tunesmith_trainer.verify.gates import require_gates
from tunesmith_trainer.verify.verification import (
    METRICS_FILE,
    PREDICTIONS_FILE,
    Verification,
    load_verification,
    save_verification,
)
from tunesmith_trainer.verify.verify import verify_model
from tunesmith_trainer.workspace import Workspace

TOP_TRIALS = 10
RUN_KEY_FORMAT = 1
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


@dataclass(frozen=True)
class Searched:
    """What the search stage hands on.

    Attributes:
        candidate: the chosen model.
        trials: the whole ledger.
        suspects: suspected wrong labels.
        timings: (what, seconds).
        ended: why the search ended.
    """

    candidate: Candidate
    trials: tuple[Trial, ...]
    suspects: tuple[Suspect, ...]
    timings: Mapping[str, float]
    ended: str


class JobRun:
    """A TrainingJob on this machine.

    Args:
        job: validated.
        cache_dir: for what can be made again.
        device: ``auto``, ``cpu`` or ``cuda``.
        events: told everything.
        patience_seconds: how long a store may stay away.
    """

    def __init__(
        self, job: TrainingJob, cache_dir: Path, device: str, events: Events, patience_seconds: float = 300
    ) -> None:
        """Open the store; nothing is read or written yet."""
        self.job, self.spec, self.cache_dir, self.events = job, job.spec, cache_dir, events
        self.patience = patience_seconds
        self.board = StatusBoard(events, lambda: datetime.now(UTC))
        self.device: Device = find_device(device, self.spec.transfer.precision)
        torch.set_num_threads(self.device.threads)
        self.store: Store = self._open(self.spec.store.uri)
        if self.spec.compute.workers:
            raise SpecInvalid(
                "compute.workers asks for several machines, and this runs on one.",
                "Set spec.compute.workers to 0.",
            )

    def _open(self, uri: str) -> Store:
        return open_store(uri, patience_seconds=self.patience, on_wait=self.events.note)

    def run(self) -> None:
        """Run or continue the job to its end.

        Raises:
            TunesmithError: with the reason, what is wrong and what to do; everything finished is kept.
        """
        self.cache_dir.mkdir(parents=True, exist_ok=True)
        self.board.condition(
            TrainingJobCondition.ADMITTED, "True", Reason.RUNNING, f"Running on {platform.node()}."
        )
        listing = list_source(self.spec, on_wait=self.events.note)
        key = run_key(self.job, listing)
        prefix = f"jobs/{self.job.name}/{key}/"
        owner = f"process {os.getpid()} on {platform.node()}"
        with (
            acquire_lease(self.store, f"{prefix}lease", owner) as lease,
            open_scratch(self.cache_dir) as scratch,
        ):
            self.workspace = Workspace(self.store, prefix, self.cache_dir, lease.ensure_held)
            self.scratch, self.key, self.prefix = scratch, key, prefix
            self._count_start()
            dataset = self._prepare(listing)
            searched = self._search(dataset)
            directory = self.scratch / "package"
            directory.mkdir()
            verification = self._verify(dataset, searched, directory)
            self._publish(dataset, searched, verification, directory)
            require_gates(verification.gates)
        self.board.condition(
            TrainingJobCondition.SUCCEEDED, "True", Reason.COMPLETED, "The verified model is in the store."
        )
        self.board.finish("Succeeded")

    def _count_start(self) -> None:
        """Count how often this run was started, for status.restarts."""
        with self.workspace.reading("starts"):
            starts = int((self.workspace.read_marker("starts") or {"starts": 0})["starts"])
        self.workspace.write_marker("starts", {"starts": starts + 1})
        self.board.update(restarts=starts)

    # Prepare

    def _prepare(self, listing: Listing) -> Dataset:
        self.board.enter("Preparing")
        finished = self.workspace.read_marker("prepare") is not None
        with self.events.stage("prepare", reused=finished):
            dataset = prepare_dataset(self.spec, self.workspace, self.events, listing=listing)
        self.board.update(dataset=DatasetStatus.model_validate(dataset.status()))
        self.board.condition(
            TrainingJobCondition.DATA_READY,
            "True",
            Reason.COMPLETED,
            f"{sum(dataset.counts().values())} images in {len(dataset.classes)} classes are ready.",
        )
        return dataset

    # Search

    def _search(self, dataset: Dataset) -> Searched:
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
            searched = Searched(candidate, trials, suspects, timings, ended)
            self.board.update(search=search_status(searched.trials))
        chosen = searched.candidate.facts
        self.board.condition(
            TrainingJobCondition.SEARCH_COMPLETE,
            "True",
            Reason.COMPLETED,
            f"{searched.ended} {chosen.selection}",
        )
        return searched

    def _run_search(self, dataset: Dataset) -> Searched:
        # Ray and Optuna take seconds to import; a run whose search is finished does without.
        from tunesmith_trainer.search.search import SearchContext, run_search

        trials: dict[str, Trial] = {}

        def on_trial(trial: Trial) -> None:
            self.workspace.require_lease()
            trials[trial.id] = trial
            self.board.update(search=search_status(tuple(trials.values())))

        trials.update({one.id: one for one in Ledger(self.store, f"{self.prefix}ledger/").trials})
        result = run_search(
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
                earlier=self._earlier_trials(),
            )
        )
        searched = Searched(result.candidate, result.trials, result.suspects, result.timings, result.ended)
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
        backbone = next(one for one in self.spec.backbones if one.name == name)
        size = self.spec.transfer.image_size
        if backbone.weights_uri is None:
            return load_backbone(name, size, weights=backbone.weights_name, weights_file=None)
        folder, _, file = backbone.weights_uri.rpartition("/")
        target = self.scratch / f"{name}.safetensors"
        try:
            self._open(folder).download(file, target)
        except TunesmithError as error:
            if error.reason is not Reason.OBJECT_MISSING:
                raise
            raise WeightsMissing(
                f"There are no weights at {backbone.weights_uri}.", "Check backbones[].weightsUri."
            ) from error
        return load_backbone(name, size, weights=None, weights_file=target)

    def _earlier_trials(self) -> tuple[Trial, ...]:
        reference = self.spec.search.warm_start_from
        if reference is None:
            return ()
        runs = {
            info.key.split("/ledger/")[0]
            for info in self.store.list(f"jobs/{reference.name}/")
            if "/ledger/" in info.key
        }
        earlier = [row for run in sorted(runs) for row in Ledger(self.store, f"{run}/ledger/").trials]
        self.events.note(f"The search starts from {len(earlier)} trials of {reference.name}.")
        return tuple(earlier)

    # Verify

    def _verify(self, dataset: Dataset, searched: Searched, directory: Path) -> Verification:
        self.board.enter("Verifying")
        facts = searched.candidate.facts
        own = _normalised(dataset, facts)
        if self.workspace.read_marker("verify") is None:
            with self.events.stage("verify"):
                self.events.note("Writing the model as an ONNX graph and comparing it with torch.")
                export_model(searched.candidate, own, directory)
                champion = self._champion()
                verification = verify_model(directory, own, self.spec, self.events, champion)
                save_verification(verification, directory)
                for name in (METRICS_FILE, PREDICTIONS_FILE):
                    self.store.put(f"{self.prefix}verify/{name}", directory / name)
                self.workspace.write_marker("verify", {"passed": verification.passed})
        else:
            self.events.reused("verify")
            if self.workspace.read_marker("publish") is None:
                export_model(searched.candidate, own, directory)
            for name in (METRICS_FILE, PREDICTIONS_FILE):
                self.store.download(f"{self.prefix}verify/{name}", directory / name)
            verification = load_verification(directory)
        failed = [gate for gate in verification.gates if not gate.passed]
        self.board.update(verification=verification.status())
        self.board.condition(
            TrainingJobCondition.VERIFIED,
            "False" if failed else "True",
            Reason.GATE_FAILED if failed else Reason.GATES_PASSED,
            " ".join(gate.message for gate in failed) or "The model met every gate.",
        )
        return verification

    def _champion(self) -> Champion | None:
        """The model that gates compare with; fetched only when one does."""
        if not any(gate.relative_to for gate in self.spec.verification.gates):
            return None
        return find_champion(
            self.store, self.job.name, cache=self.cache_dir / "packages", on_skip=self.events.note
        )

    # Publish

    def _publish(
        self, dataset: Dataset, searched: Searched, verification: Verification, directory: Path
    ) -> None:
        self.board.enter("Publishing")
        marker = self.workspace.read_marker("publish")
        if marker is None:
            with self.events.stage("publish"):
                self._write_package(dataset, searched, verification, directory)
                facts = searched.candidate.facts
                header = PackageHeader(
                    verification.passed,
                    created_by(),
                    dataset.digest,
                    self.key,
                    facts.backbone,
                    facts.strategy,
                )
                self.workspace.require_lease()
                published = publish_package(directory, self.store, self.job.name, header)
                marker = {"uri": published.uri, "digest": published.digest}
                self.workspace.write_marker("publish", marker)
        else:
            self.events.reused("publish")
        with self.workspace.reading("publish"):
            model = ModelStatus.model_validate({**marker, "verified": verification.passed})
        self.board.update(model=model, report_uri=f"{model.uri}/report.html")

    def _write_package(
        self, dataset: Dataset, searched: Searched, verification: Verification, directory: Path
    ) -> None:
        """Write the files of the package that the export and the verification did not."""
        facts = searched.candidate.facts
        own = _normalised(dataset, facts)
        predictor = Predictor(directory, threads=self.device.threads)
        tested = verification.predictions
        write_golden(directory, predictor, own, tested)
        # The test images are the only ones that no model of this run has learned from.
        write_reference(directory, tested.probabilities, tested.embeddings)
        data = report_data(
            Run(
                job=self.job,
                run_key=self.key,
                dataset=own,
                facts=facts,
                trials=searched.trials,
                suspects=searched.suspects,
                timings=searched.timings,
                ended=searched.ended,
                verification=verification,
                predictor=predictor,
                onnx_bytes=(directory / "model.onnx").stat().st_size,
                store_uri=self.store.url(f"models/{self.job.name}"),
                now=datetime.now(UTC),
            )
        )
        (directory / "report.html").write_text(render_report(data), encoding="utf-8")
        (directory / "MODEL_CARD.md").write_text(render_card(data), encoding="utf-8")
        (directory / "spec.json").write_text(json.dumps(self.job.to_dict(), sort_keys=True), encoding="utf-8")
        with suppress(FileNotFoundError):
            (directory / PREDICTIONS_FILE).unlink()


def _normalised(dataset: Dataset, facts: CandidateFacts) -> Dataset:
    """The dataset with the normalisation that the candidate's weights expect."""
    return replace(dataset, preprocess=replace(dataset.preprocess, mean=facts.mean, std=facts.std))


def search_status(trials: tuple[Trial, ...]) -> SearchStatus:
    """The search in short, for the status: counts and the best ten trials."""
    states = [trial.state for trial in trials]
    scored = sorted((one for one in trials if one.score is not None), key=lambda one: (one.score, one.id))
    top = tuple(_trial_status(one) for one in scored[:TOP_TRIALS])
    return SearchStatus(
        trials=len(trials),
        running=states.count("Running"),
        succeeded=states.count("Succeeded"),
        stopped=states.count("Stopped"),
        failed=states.count("Failed"),
        best=top[0] if top else None,
        top=top,
    )


def _trial_status(trial: Trial) -> TrialStatus:
    accuracy = trial.metrics.get("accuracy")
    values: dict[str, Any] = {
        "id": trial.id,
        "strategy": trial.strategy,
        "backbone": trial.backbone,
        "parameters": {
            name: f"{value:.4g}" if isinstance(value, float) else str(value)
            for name, value in trial.parameters.items()
        },
        "metrics": {name: round(value, 6) for name, value in trial.metrics.items()},
        "score": "" if accuracy is None else f"{accuracy:.4f}",
    }
    return TrialStatus.model_validate(values)
