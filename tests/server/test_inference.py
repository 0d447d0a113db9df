"""The application in this process: deadlines, states, and faults of its own."""

import asyncio
import base64
import json

import numpy as np
import pytest
from serving import SAME, SMALL, asked, client_of, data_uri, png

from convnext_keras import clip
from convnext_keras.server import ImageURLPolicy, ServerLimits, create_app
from convnext_keras.server.inference import InferenceEngine
from convnext_keras.server.metrics import Metrics

pytestmark = pytest.mark.any_backend


def test_internal_errors_show_the_request_id_only(model):
    def breaks(engine):
        def fails(*arguments, **options):
            raise RuntimeError("a secret path")

        engine.vectors = fails

    answer = asked(create_app(model, limits=SMALL), "/v1/embeddings", {"input": "a"}, breaks)
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "internal_error"
    assert answer.headers["x-request-id"] in answer.text
    assert "secret" not in answer.text


def test_requests_have_a_deadline(model):
    answer = asked(create_app(model, limits=SMALL._replace(answer_seconds=1e-6)), "/v1/embeddings", {"input": "a"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "deadline_exceeded")
    assert int(answer.headers["retry-after"]) >= 1


@pytest.mark.parametrize(("state", "code"), [("loading", "model_loading"), ("stopping", "shutting_down")])
def test_not_ready_before_the_model_is_warm_or_when_the_server_stops(state, code, model):
    app = create_app(model)
    app.state.engine.state = state
    assert asked(app, "/health", None, started=False).status_code == 200
    for path, body in (("/health/ready", None), ("/v1/embeddings", {"input": "a"})):
        answer = asked(app, path, body, started=False)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, code)
        assert int(answer.headers["retry-after"]) >= 1


def test_not_ready_when_a_queue_has_died(model):
    def dies(engine):
        engine.batchers["image"].task.cancel()

    assert asked(create_app(model, limits=SMALL), "/health/ready", None, dies).status_code == 503


def labelled(engine, *sets):
    """The class vectors of sets of labels, one after the other, in one event loop with the engine's queues."""

    async def together():
        await engine.start()
        vectors = [await engine.class_embeddings(tuple(labels), ("{}",)) for labels in sets]
        await engine.stop()
        return vectors

    return asyncio.run(together())


def counted(metrics, name, **labels):
    return metrics.registry.get_sample_value(name, labels)


def engine_of(model, **limits):
    return InferenceEngine(model, SMALL._replace(**limits), ImageURLPolicy(), Metrics())


def test_label_cache_is_lru(model):
    engine = engine_of(model, cached_labels=5)
    sets = [["a", "b"], ["c", "d"], ["a", "b"], ["e", "f"], ["a", "b"], ["c", "d"]]
    tokens = [tokens for _, tokens in labelled(engine, *sets)]
    assert [count > 0 for count in tokens] == [True, True, False, True, False, True]
    assert sum(map(len, engine.labels.values())) <= 5
    assert counted(engine.metrics, "convnext_keras_label_cache_total", kept="true") == 2
    assert counted(engine.metrics, "convnext_keras_label_cache_total", kept="false") == 4


def test_more_labels_than_the_cache_holds_are_answered_all_the_same(model):
    engine = engine_of(model, cached_labels=3)
    ((vectors, _),) = labelled(engine, ["a", "b", "c", "d"])
    assert vectors.shape == (4, model.embed_dim)
    assert not engine.labels


def test_class_embeddings_equal_the_library(model):
    labels, templates = ("a red circle", "blue", "three stars"), ("{}", "an image of {}")

    async def asked_for():
        engine = engine_of(model)
        await engine.start()
        vectors, _ = await engine.class_embeddings(labels, templates)
        await engine.stop()
        return vectors

    expected = clip.ZeroShotClassifier(model, labels, templates).classes
    np.testing.assert_allclose(asyncio.run(asked_for()), expected, atol=SAME)


def test_metrics_count_requests(model):
    """Every metric after a known series of requests."""
    app = create_app(model, limits=SMALL)
    metrics = app.state.engine.metrics
    image = {"image": data_uri(png(np.zeros((64, 64, 3), "uint8")))}
    broken = {"image": base64.b64encode(b"no image").decode()}

    async def requests():
        async with client_of(app) as client:
            for items in (["a", "b", image], ["c"], [broken]):
                await client.post("/v1/embeddings", json={"input": items})
            return (await client.get("/metrics")).text

    text = asyncio.run(requests())
    route = "/v1/embeddings"
    assert counted(metrics, "convnext_keras_requests_total", route=route, status="200") == 2
    assert counted(metrics, "convnext_keras_requests_total", route=route, status="400") == 1
    assert counted(metrics, "convnext_keras_request_seconds_count", route=route) == 3
    assert counted(metrics, "convnext_keras_images_total", outcome="ok") == 1
    assert counted(metrics, "convnext_keras_images_total", outcome="unsupported_image_format") == 1
    for tower, items in (("text", 3), ("image", 1)):
        assert counted(metrics, "convnext_keras_batch_size_sum", tower=tower) == items
        assert counted(metrics, "convnext_keras_batch_size_count", tower=tower) == items  # of one item each
        assert counted(metrics, "convnext_keras_batch_wait_seconds_count", tower=tower) == items
        assert counted(metrics, "convnext_keras_batch_seconds_sum", tower=tower) > 0
    assert counted(metrics, "convnext_keras_stage_seconds_count", stage="decode") == 2
    assert (
        counted(metrics, "convnext_keras_stage_seconds_count", stage="tokenise") == 2
    )  # The last request has no text.
    assert counted(metrics, "convnext_keras_queued", tower="text") == 0
    assert 'queued{tower="image"} 0.0' in text
    assert 1e7 < counted(metrics, "convnext_keras_memory_bytes") < 1e11


def test_metrics_contain_the_start_time(monkeypatch):
    monkeypatch.setattr("convnext_keras.server.metrics.time.time", lambda: 1234.5)
    assert counted(Metrics(), "convnext_keras_start_time_seconds") == 1234.5


def test_usual_shapes_run_before_the_server_is_ready_and_all_others_after(model, caplog):
    engine = InferenceEngine(model, ServerLimits(image_batch=4, text_batch=2), ImageURLPolicy(), Metrics())
    usual, others = engine._shapes()
    shapes = [(tower, inputs.shape) for tower, inputs in usual]
    size = model.transform.size
    assert shapes == [
        ("image", (1, size, size, 3)), ("image", (4, size, size, 3)), ("text", (1, 40)), ("text", (2, 40)),
    ]  # fmt: skip
    assert len(others) == 1 + 2 * 2  # two images; one and two texts of each other length
    sizes = [inputs.size for _, inputs in others]
    assert sizes == sorted(sizes)

    async def run():
        await engine.start()
        assert engine.state == "ready"
        await engine.warming_up
        await engine.stop()

    with caplog.at_level("INFO", "convnext_keras.server"):
        asyncio.run(run())
    told = [json.loads(record.message) for record in caplog.records]
    assert [row["warm_up"] for row in told] == ["usual"] * 4 + ["other"] * 5
    assert told[-1]["shape"] == told[-1]["of"] == 5
