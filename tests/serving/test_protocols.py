"""A real predictor, asked by every protocol."""

from __future__ import annotations

import base64
import contextlib
import json
import re
import struct
from pathlib import Path

import grpc
import numpy as np
import pytest
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub
from tests.testbed.predictors import NAME, Server
from tests.testbed.tiny_package import LABELS, PREPROCESS, picture

from tunesmith_package.package import PublishedPackage
from tunesmith_package.preprocess import decode

SIDE = PREPROCESS.image_size


def infer(server: Server, document: object, behind: bytes = b"") -> tuple[int, bytes, str | None]:
    head = json.dumps(document).encode()
    headers = {"content-type": "application/json"}
    if behind:
        headers = {
            "content-type": "application/octet-stream",
            "inference-header-content-length": str(len(head)),
        }
    reply = server.request("POST", f"/v2/models/{NAME}/infer", head + behind, headers)
    return reply.status, reply.body, reply.headers.get("inference-header-content-length")


def test_an_image_as_the_body_is_answered_with_classes_and_the_models_digest(
    server: Server, package: PublishedPackage
) -> None:
    reply = server.predict(picture("green", format="JPEG"), query="?top=2", kind="image/jpeg")

    assert reply.status == 200
    [prediction] = reply.json["predictions"]
    assert prediction["label"] == "green"
    assert len(prediction["classes"]) == 2
    assert reply.headers["x-tunesmith-model-digest"] == package.digest
    assert reply.headers["x-tunesmith-revision"] == "r1"
    assert reply.headers["x-request-id"] == reply.json["requestId"]


def test_several_instances_are_answered_in_their_order(server: Server) -> None:
    instances = [{"b64": base64.b64encode(picture(colour)).decode()} for colour in ("blue", "red", "green")]
    reply = server.request(
        "POST",
        f"/v1/models/{NAME}:predict",
        json.dumps({"instances": instances}).encode(),
        {"content-type": "application/json", "x-request-id": "mine"},
    )
    assert [one["label"] for one in reply.json["predictions"]] == ["blue", "red", "green"]
    assert reply.json["requestId"] == "mine"


def test_explain_draws_the_class_that_is_named(server: Server) -> None:
    reply = server.predict(picture("green"), verb="explain", query="?class=red")
    [prediction] = reply.json["predictions"]
    explanation = prediction["explanation"]
    assert prediction["label"] == "green"
    assert (explanation["label"], explanation["method"]) == ("red", "cam")
    assert np.shape(explanation["map"]) == (4, 4)
    assert base64.b64decode(explanation["png"]).startswith(b"\x89PNG")


def test_v2_json_and_binary_and_tensors_give_the_same_probabilities(server: Server) -> None:
    image = picture("blue")
    tensor = PREPROCESS.normalise(decode(image, PREPROCESS).pixels[np.newaxis])
    raw = struct.pack("<I", len(image)) + image
    one = {"name": "image", "datatype": "BYTES", "shape": [1]}
    as_json = {"inputs": [{**one, "data": [base64.b64encode(image).decode()]}]}
    as_bytes = {"inputs": [{**one, "parameters": {"binary_data_size": len(raw)}}]}
    as_tensor = {
        "inputs": [
            {
                "name": "tensor",
                "datatype": "FP32",
                "shape": list(tensor.shape),
                "parameters": {"binary_data_size": tensor.nbytes},
            }
        ],
        "parameters": {"binary_data_output": True},
        "outputs": [{"name": "probabilities", "parameters": {"binary_data": True}}],
    }

    status, body, _ = infer(server, as_json)
    outputs = {each["name"]: each for each in json.loads(body)["outputs"]}
    binary_status, binary_body, _ = infer(server, as_bytes, raw)
    tensor_status, tensor_body, length = infer(server, as_tensor, tensor.tobytes())

    assert (status, binary_status, tensor_status) == (200, 200, 200)
    assert outputs["label"]["data"] == ["blue"]
    assert json.loads(binary_body)["outputs"] == json.loads(body)["outputs"]
    assert length is not None
    found = np.frombuffer(tensor_body[int(length) :], np.float32)
    assert found == pytest.approx(outputs["probabilities"]["data"], abs=1e-6)


def test_grpc_answers_as_rest_does(server: Server) -> None:
    image = picture("red")
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        stub = GRPCInferenceServiceStub(channel)
        request = pb.ModelInferRequest(
            model_name=NAME,
            inputs=[
                pb.ModelInferRequest.InferInputTensor(
                    name="image",
                    datatype="BYTES",
                    shape=[1],
                    contents=pb.InferTensorContents(bytes_contents=[image]),
                )
            ],
        )
        answer = stub.ModelInfer(request, timeout=30)
        outputs = {one.name: one for one in answer.outputs}
        assert outputs["label"].shape == [1]
        raw = dict(zip(outputs, answer.raw_output_contents, strict=False))
        values = (
            np.frombuffer(raw["probabilities"], np.float32)
            if raw
            else np.array(outputs["probabilities"].contents.fp32_contents)
        )
        assert LABELS[int(values.argmax())] == "red"
        metadata = stub.ModelMetadata(pb.ModelMetadataRequest(name=NAME), timeout=30)
        assert [one.name for one in metadata.inputs] == ["image", "tensor", "pixels"]

        request.inputs[0].contents.bytes_contents[0] = b"hello"
        with pytest.raises(grpc.RpcError) as caught:
            stub.ModelInfer(request, timeout=30)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "not an image" in caught.value.details()

        with pytest.raises(grpc.RpcError) as caught:
            stub.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name=NAME), timeout=30)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        assert stub.ModelReady(pb.ModelReadyRequest(name=NAME), timeout=30).ready


def test_metadata_tells_labels_inputs_and_the_digest(server: Server, package: PublishedPackage) -> None:
    document = server.request("GET", f"/v2/models/{NAME}").json
    assert document["parameters"]["labels"] == list(LABELS)
    assert document["parameters"]["digest"] == package.digest
    assert document["inputs"][1]["shape"] == [-1, 3, SIDE, SIDE]
    assert document["versions"] == ["r1"]


def test_metrics_count_requests_by_code_and_protocol_for_this_model(server: Server) -> None:
    def count(code: str) -> float:
        text = server.request("GET", "/metrics").body.decode()
        rows = re.findall(r"^tunesmith_requests_total\{(.*)\} (.*)$", text, re.MULTILINE)
        return sum(
            float(value) for labels, value in rows if f'code="{code}"' in labels and 'protocol="v1"' in labels
        )

    before = count("200"), count("400")
    server.predict(picture("red"))
    server.predict(b"hello")
    assert (count("200"), count("400")) == (before[0] + 1, before[1] + 1)


@pytest.mark.parametrize("verb", ["load", "unload"])
def test_no_request_takes_the_model_away(server: Server, verb: str) -> None:
    assert server.request("POST", f"/v2/repository/models/{NAME}/{verb}").status == 403
    assert server.predict(picture("red")).status == 200


def test_grpc_listens_where_http_does(server: Server) -> None:
    sockets = set()
    for link in Path(f"/proc/{server.process.pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            sockets.add(str(link.readlink()).removeprefix("socket:[").removesuffix("]"))
    listening = {
        fields[1].removeprefix("0000000000000000FFFF0000")  # IPv4 in the table of IPv6
        for table in ("tcp", "tcp6")
        for fields in map(str.split, Path(f"/proc/net/{table}").read_text().splitlines()[1:])
        if fields[3] == "0A" and fields[9] in sockets
    }
    ports = {server.http_port, server.grpc_port}
    assert listening == {f"0100007F:{port:04X}" for port in ports}
