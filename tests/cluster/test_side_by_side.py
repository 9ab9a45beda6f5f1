"""Several jobs and deployments at once, on a node that has not room for all of them at the same time."""

from tests.cluster.platform import Team, photos


def test_two_deployments_and_three_jobs_at_once(team: Team) -> None:
    jobs = ("one", "two", "three")
    for size, job in zip((96, 128, 160), jobs, strict=True):
        team.train(job, "insects", transfer={"strategies": ["LinearProbe"], "imageSize": size})
    for job in jobs[:2]:
        team.deploy(job, job)
    digests = {job: team.trained(job, 600)["digest"] for job in jobs}
    assert len(set(digests.values())) == 3
    for job in jobs[:2]:
        team.wait_for("modeldeployment", job, "Ready", 240, status="True")
        answers = [team.ask(job, photo) for photo in photos("val")[:10]]
        assert {answer.status_code for answer in answers} == {200}
        assert {answer.headers["x-tunesmith-model-digest"] for answer in answers} == {digests[job]}
