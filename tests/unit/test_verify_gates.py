from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith_api.fields import LOWER_IS_BETTER
from tunesmith_api.reasons import GateFailed, Reason
from tunesmith_api.verification_spec import Gate
from tunesmith_trainer.verify.bootstrap import Interval
from tunesmith_trainer.verify.gates import Comparison, GateResult, decide_gates, require_gates


def decide(
    gate: dict[str, Any],
    interval: Interval | None = None,
    comparison: Comparison | None = None,
    remark: str | None = None,
) -> GateResult:
    gates = (Gate.model_validate(gate),)
    key = (gate["metric"], gate.get("minimumDelta", 0.0))
    (result,) = decide_gates(
        gates,
        {gate["metric"]: interval} if interval else {},
        {key: comparison} if comparison else {},
        {gate["metric"]: remark} if remark else None,
    )
    return result


@pytest.mark.parametrize(
    ("gate", "interval", "passed", "limit", "message"),
    [
        pytest.param(
            {"metric": "accuracy", "minimum": 0.9},
            Interval(0.887, 0.85, 0.895),
            False,
            ">= 0.9",
            "accuracy 0.887 is 0.013 below the minimum 0.900 of the gate.",
            id="a miss says by how much",
        ),
        pytest.param(
            {"metric": "accuracy", "minimum": 0.9},
            Interval(0.887, 0.84, 0.92),
            False,
            ">= 0.9",
            "accuracy 0.887 is 0.013 below the minimum 0.900 of the gate. Its 95 % interval 0.840 to 0.920 "
            "reaches the limit: more test images would tell.",
            id="a miss within chance is still a miss, and says so",
        ),
        pytest.param(
            {"metric": "accuracy", "minimum": 0.9},
            Interval(0.9, 0.85, 0.95),
            True,
            ">= 0.9",
            "accuracy 0.900 meets the minimum 0.900 of the gate.",
            id="the limit itself is enough",
        ),
        pytest.param(
            {"metric": "accuracy", "minimum": 0.9},
            Interval(0.89996, 0.89996, 0.89996),
            False,
            ">= 0.9",
            "accuracy 0.89996 is 0.00004 below the minimum 0.90000 of the gate.",
            id="a narrow miss is shown with the digits it takes",
        ),
        pytest.param(
            {"metric": "latencyP95Milliseconds", "maximum": 80},
            Interval(96.44, 90.0, 100.0),
            False,
            "<= 80",
            "latencyP95Milliseconds 96.4 ms is 16.4 ms above the maximum 80.0 ms of the gate.",
            id="a maximum, with its unit",
        ),
        pytest.param(
            {"metric": "calibrationError", "maximum": 0.05},
            Interval(0.021, 0.0, 0.03),
            True,
            "<= 0.05",
            "calibrationError 0.021 is 0.029 below the maximum 0.050 of the gate.",
            id="a maximum that is met",
        ),
    ],
)
def test_gate_with_a_limit_is_decided_by_the_value_itself(
    gate: dict[str, Any], interval: Interval, passed: bool, limit: str, message: str
) -> None:
    result = decide(gate, interval)
    assert (result.passed, result.limit, result.message) == (passed, limit, message)
    assert bool(result.advice) is not passed


def test_gate_on_what_was_not_measured_fails_and_says_why() -> None:
    result = decide({"metric": "worstSliceAccuracy", "minimum": 0.7}, remark="There are no slices.")
    assert (result.passed, result.value) == (False, None)
    assert result.message == (
        "worstSliceAccuracy could not be measured, so its gate >= 0.7 is not met. There are no slices."
    )


def against(
    value: float,
    champion_value: float,
    test: str = "exact McNemar test",
    p_short: float | None = None,
    p_gain: float | None = None,
) -> Comparison:
    return Comparison("sha256:0123456789ab", value, champion_value, test, p_short, p_gain, 240)


@pytest.mark.parametrize(
    ("delta", "comparison", "passed", "said"),
    [
        pytest.param(
            0.0,
            against(0.95, 0.95, p_short=1.0, p_gain=1.0),
            True,
            "equals the 0.950 of the champion",
            id="as good as the champion passes",
        ),
        pytest.param(
            0.0,
            against(0.96, 0.95, p_short=0.9, p_gain=0.3),
            True,
            "is 0.010 better than the 0.950 of the champion",
            id="better passes without proof when no margin is asked for",
        ),
        pytest.param(
            0.0,
            against(0.946, 0.95, p_short=0.5, p_gain=0.9),
            True,
            "which may be chance (exact McNemar test, p = 0.5)",
            id="worse within chance passes",
        ),
        pytest.param(
            0.0,
            against(0.90, 0.95, p_short=0.0002, p_gain=1.0),
            False,
            "which is beyond chance (exact McNemar test, p = 0.0002)",
            id="worse beyond chance fails",
        ),
        pytest.param(
            0.0,
            against(0.90, 0.95, test=""),
            False,
            "is 0.050 worse than the 0.950 of the champion",
            id="worse fails where no test says that it may be chance",
        ),
        pytest.param(
            0.02,
            against(0.96, 0.95, p_short=0.6, p_gain=0.01),
            False,
            "less than the margin of 0.02 that the gate asks for",
            id="a gain below the margin fails",
        ),
        pytest.param(
            0.02,
            against(0.98, 0.95, p_short=0.9, p_gain=0.01),
            True,
            "and the gain is beyond chance (exact McNemar test, p = 0.01)",
            id="a proven gain that reaches the margin passes",
        ),
        pytest.param(
            0.02,
            against(0.98, 0.95, p_short=0.9, p_gain=0.2),
            False,
            "but the gain may be chance (exact McNemar test, p = 0.2)",
            id="a gain that reaches the margin by chance fails",
        ),
        pytest.param(
            -0.01,
            against(0.92, 0.95, test="paired bootstrap", p_short=0.01, p_gain=1.0),
            False,
            "beyond the margin of -0.01, which is beyond chance",
            id="worse than the margin allows fails",
        ),
    ],
)
def test_gate_relative_to_the_champion_asks_for_proof_of_a_difference(
    delta: float, comparison: Comparison, passed: bool, said: str
) -> None:
    gate = {"metric": "accuracy", "relativeTo": "Champion", "minimumDelta": delta}
    result = decide(gate, Interval(comparison.value, 0.0, 1.0), comparison)
    assert result.passed is passed
    assert said in result.message
    assert "on the same 240 test images" in result.message


def test_gate_relative_to_the_champion_turns_round_where_smaller_is_better() -> None:
    gate = {"metric": "negativeLogLikelihood", "relativeTo": "Champion"}
    better = against(0.2, 0.3, test="paired bootstrap", p_short=0.9, p_gain=0.01)
    worse = against(0.3, 0.2, test="paired bootstrap", p_short=0.01, p_gain=0.9)
    assert "is 0.100 better than" in decide(gate, Interval(0.2, 0.2, 0.2), better).message
    assert not decide(gate, Interval(0.3, 0.3, 0.3), worse).passed


def test_gate_relative_to_a_champion_that_is_not_there_passes_and_says_so() -> None:
    result = decide({"metric": "accuracy", "relativeTo": "Champion"}, Interval(0.5, 0.4, 0.6))
    assert (result.passed, result.limit) == (True, "champion")
    assert result.message == "accuracy 0.500 has no champion to beat: this job has no verified model yet."


@pytest.mark.parametrize(
    ("delta", "limit"), [(0.0, "champion"), (0.01, "champion + 0.01"), (-0.01, "champion - 0.01")]
)
def test_limit_of_a_relative_gate_is_written_like_a_sum(delta: float, limit: str) -> None:
    gate = {"metric": "accuracy", "relativeTo": "Champion", "minimumDelta": delta}
    assert decide(gate, Interval(0.5, 0.5, 0.5)).limit == limit


def test_required_gates_that_pass_raise_nothing() -> None:
    require_gates([decide({"metric": "accuracy", "minimum": 0.5}, Interval(0.6, 0.5, 0.7))])


def test_required_gates_that_fail_raise_one_error_with_every_sentence() -> None:
    results = [
        decide({"metric": "accuracy", "minimum": 0.9}, Interval(0.887, 0.88, 0.89)),
        decide({"metric": "macroF1", "minimum": 0.5}, Interval(0.9, 0.9, 0.9)),
        decide({"metric": "modelSizeMegabytes", "maximum": 5}, Interval(8.9, 8.9, 8.9)),
    ]
    with pytest.raises(GateFailed) as caught:
        require_gates(results)
    assert caught.value.reason is Reason.GATE_FAILED
    assert caught.value.message == (
        "2 of 3 gates failed: accuracy 0.887 is 0.013 below the minimum 0.900 of the gate. "
        "modelSizeMegabytes 8.9 MB is 3.9 MB above the maximum 5.0 MB of the gate."
    )
    assert "unverified" in caught.value.next_step
    assert "smaller backbone" in caught.value.next_step


@given(st.sampled_from(["accuracy", "calibrationError"]), st.floats(0, 1), st.floats(0, 1))
def test_gate_passes_exactly_when_the_value_is_on_the_right_side(
    metric: str, value: float, bound: float
) -> None:
    lower = metric in LOWER_IS_BETTER
    result = decide(
        {"metric": metric, "maximum" if lower else "minimum": bound}, Interval(value, value, value)
    )
    assert result.passed is (value <= bound if lower else value >= bound)
    assert " is 0.000 " not in result.message
