#!/usr/bin/env python3
"""A Python client against a running coordinator with models/pilot (optional: needs PyPI packages).

  pip install grpcio grpcio-tools grpcio-health-checking grpcio-reflection
  python tests/e2e/grpc_client_test.py HOST:PORT
"""

import pathlib
import subprocess
import sys
import tempfile

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent


def load_protos():
    out = tempfile.mkdtemp()
    protos = [str(p) for p in (ROOT / "proto/trireme/v1").glob("*.proto")]
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT / 'proto'}", f"--python_out={out}",
                    f"--grpc_python_out={out}", *protos], check=True)
    sys.path.insert(0, out)


def expect_code(code, call, text):
    try:
        list(call)
    except grpc.RpcError as error:
        assert error.code() == code, error
        assert text in error.details(), error.details()
    else:
        raise AssertionError(f"no error where {code} was due")


def main():
    load_protos()
    from trireme.v1 import cluster_pb2, cluster_pb2_grpc, inference_pb2 as pb, inference_pb2_grpc

    channel = grpc.insecure_channel(sys.argv[1])
    health = health_pb2_grpc.HealthStub(channel)
    for service in ("", "trireme.v1.Inference"):
        status = health.Check(health_pb2.HealthCheckRequest(service=service)).status
        assert status == health_pb2.HealthCheckResponse.SERVING, (service, status)
    services = ProtoReflectionDescriptorDatabase(channel).get_services()
    for name in ("trireme.v1.Inference", "trireme.v1.Cluster", "grpc.health.v1.Health"):
        assert name in services, services

    stub = inference_pb2_grpc.InferenceStub(channel)
    model = stub.GetModel(pb.GetModelRequest())
    assert model.ready and model.vocab_size == 2048 and model.has_chat_template, model
    tokens = stub.Tokenize(pb.TokenizeRequest(text="Grüße, 世界 🚣"))
    text = stub.Detokenize(pb.DetokenizeRequest(token_ids=tokens.token_ids, skip_special_tokens=True)).text
    assert text == "Grüße, 世界 🚣", text

    greedy = pb.SamplingParams(temperature=0, max_tokens=40, logprobs=3)
    parts = list(stub.Generate(pb.GenerateRequest(prompt="Tensor parallelism is", sampling=greedy)))
    ids = [i for part in parts for i in part.token_ids]
    entries = [e for part in parts for e in part.logprobs]
    assert len(entries) == len(ids) == parts[-1].usage.completion_tokens
    assert all(e.chosen.token_id == i and e.top[0].token_id == i for e, i in zip(entries, ids))
    assert all(len(e.top) == 3 and e.top[0].logprob >= e.top[1].logprob for e in entries)
    assert parts[-1].finish_reason == pb.FINISH_REASON_STOP

    by_ids = list(stub.Generate(pb.GenerateRequest(
        prompt_token_ids=pb.TokenIds(ids=stub.Tokenize(pb.TokenizeRequest(text="Tensor parallelism is")).token_ids),
        sampling=greedy)))
    assert [i for part in by_ids for i in part.token_ids] == ids

    chat = pb.ChatRequest(messages=[pb.ChatMessage(role="user", content="What is Trireme?")])
    assert "C++ inference cluster" in "".join(part.text for part in stub.Chat(chat))
    stopped = list(stub.Chat(pb.ChatRequest(messages=chat.messages, sampling=pb.SamplingParams(stop=["infer"]))))
    assert "".join(part.text for part in stopped).endswith("C++ "), stopped

    several = pb.SamplingParams(n=3, temperature=1, seed=5, max_tokens=12, ignore_eos=True)
    texts = {}
    for part in stub.Generate(pb.GenerateRequest(prompt="A", sampling=several)):
        texts[part.index] = texts.get(part.index, "") + part.text
    again = {}
    for part in stub.Generate(pb.GenerateRequest(prompt="A", sampling=several)):
        again[part.index] = again.get(part.index, "") + part.text
    assert sorted(texts) == [0, 1, 2] and texts == again and len(set(texts.values())) > 1, texts

    bad = grpc.StatusCode.INVALID_ARGUMENT
    expect_code(bad, stub.Generate(pb.GenerateRequest()), "prompt")
    expect_code(bad, stub.Generate(pb.GenerateRequest(prompt="x", sampling=pb.SamplingParams(top_p=2))), "top_p")
    expect_code(bad, stub.Generate(pb.GenerateRequest(prompt_token_ids=pb.TokenIds(ids=[99999]))), "99999")
    expect_code(grpc.StatusCode.DEADLINE_EXCEEDED, stub.Generate(pb.GenerateRequest(
        prompt="x", sampling=pb.SamplingParams(max_tokens=1000, ignore_eos=True)), timeout=0.1), "")

    call = stub.Generate(pb.GenerateRequest(prompt="x", sampling=pb.SamplingParams(max_tokens=1000, ignore_eos=True)))
    next(call)
    call.cancel()
    ranks = cluster_pb2_grpc.ClusterStub(channel).ListRanks(cluster_pb2.ListRanksRequest())
    assert ranks.ready
    for gang in ranks.gangs:
        assert len(gang.ranks) == gang.tensor_parallel_size * gang.pipeline_parallel_size
    print("1 passed, 0 failed")


if __name__ == "__main__":
    main()
