"""From a candidate to a published package: the stages verify and publish."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from tunesmith_api.reasons import Reason, TrainingJobCondition
from tunesmith_api.status import ModelStatus
from tunesmith_api.training_job import TrainingJob
from tunesmith_package.inference import Predictor
from tunesmith_package.manifest import PackageHeader
from tunesmith_package.package import publish_package
from tunesmith_trainer.credentials import STORE, credentials_for
from tunesmith_trainer.devices import Device
from tunesmith_trainer.events import Events
from tunesmith_trainer.prepare.dataset import Dataset
from tunesmith_trainer.publish.card import render_card
from tunesmith_trainer.publish.export import export_model
from tunesmith_trainer.publish.reference import properties_of, write_golden, write_reference
from tunesmith_trainer.publish.report.render import render_report
from tunesmith_trainer.publish.report_data import Run, created_by, report_data
from tunesmith_trainer.search.candidate import CandidateFacts
from tunesmith_trainer.search.result import SearchResult
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


@dataclass(frozen=True)
class Release:
    """Where a candidate is verified and published, and whom that tells.

    Attributes:
        job: validated.
        run_key: of this run.
        workspace: of this run, with its lease.
        device: where the search ran.
        events: told everything.
        board: the status.
    """

    job: TrainingJob
    run_key: str
    workspace: Workspace
    device: Device
    events: Events
    board: StatusBoard

    def run(self, dataset: Dataset, searched: SearchResult, directory: Path) -> None:
        """Verify and publish, or take over what an earlier process did of it.

        Args:
            dataset: with its test split.
            searched: what the search found.
            directory: an empty folder for the package's files.

        Raises:
            GateFailed: the model did not meet a gate; it is published as unverified.
            TunesmithError: anything else that went wrong; everything finished is kept.
        """
        verification = self._verify(dataset, searched, directory)
        self._publish(dataset, searched, verification, directory)
        require_gates(verification.gates)

    def _verify(self, dataset: Dataset, searched: SearchResult, directory: Path) -> Verification:
        self.board.enter("Verifying")
        facts = searched.candidate.facts
        own = _normalised(dataset, facts)
        if self.workspace.read_marker("verify") is None:
            with self.events.stage("verify"):
                self.events.note("Writing the model as an ONNX graph and comparing it with torch.")
                export_model(searched.candidate, own, directory)
                champion = self._champion()
                verification = verify_model(directory, own, self.job.spec, self.events, champion)
                save_verification(verification, directory)
                for name in (METRICS_FILE, PREDICTIONS_FILE):
                    self.workspace.store.put(self.workspace.key(f"verify/{name}"), directory / name)
                self.workspace.write_marker("verify", {"passed": verification.passed})
        else:
            self.events.reused("verify")
            if self.workspace.read_marker("publish") is None:
                export_model(searched.candidate, own, directory)
            for name in (METRICS_FILE, PREDICTIONS_FILE):
                self.workspace.store.download(self.workspace.key(f"verify/{name}"), directory / name)
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
        if not any(gate.relative_to for gate in self.job.spec.verification.gates):
            return None
        return find_champion(
            self.workspace.store,
            self.job.name,
            cache=self.workspace.cache_dir / "packages",
            credentials=credentials_for(STORE),
            on_skip=self.events.note,
        )

    def _publish(
        self, dataset: Dataset, searched: SearchResult, verification: Verification, directory: Path
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
                    self.run_key,
                    facts.backbone,
                    facts.strategy,
                )
                self.workspace.require_lease()
                published = publish_package(directory, self.workspace.store, self.job.name, header)
                marker = {"uri": published.uri, "digest": published.digest}
                self.workspace.write_marker("publish", marker)
        else:
            self.events.reused("publish")
        with self.workspace.reading("publish"):
            model = ModelStatus.model_validate({**marker, "verified": verification.passed})
        self.board.update(model=model, report_uri=f"{model.uri}/report.html")

    def _write_package(
        self, dataset: Dataset, searched: SearchResult, verification: Verification, directory: Path
    ) -> None:
        """Write the files of the package that the export and the verification did not."""
        facts = searched.candidate.facts
        own = _normalised(dataset, facts)
        predictor = Predictor(directory, threads=self.device.threads)
        tested = verification.predictions
        write_golden(directory, predictor, own, tested)
        # The test images are the only ones that no model of this run has learned from.
        write_reference(directory, tested.probabilities, tested.embeddings, properties_of(own, tested.rows))
        data = report_data(
            Run(
                job=self.job,
                run_key=self.run_key,
                dataset=own,
                facts=facts,
                trials=searched.trials,
                suspects=searched.suspects,
                timings=searched.timings,
                ended=searched.ended,
                verification=verification,
                predictor=predictor,
                events=self.events,
                onnx_bytes=(directory / "model.onnx").stat().st_size,
                store_uri=self.workspace.store.url(f"models/{self.job.name}"),
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
